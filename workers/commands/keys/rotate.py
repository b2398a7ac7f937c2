"""`kdpipe keys rotate` and `renew`: new keys, or another term for the old ones, in an order that devices follow."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.keys.arguments import AsJson, Folder, Publics, Uses, ask_twice, references, someone_types
from workers.commands.repository import repository

if TYPE_CHECKING:
    from pipeline.releases.keys import Unlock
    from workers.driver.rekeying import Rekeyed

Brought = Annotated[
    list[Path] | None, typer.Option("--key", metavar="FILE", help="An offline key that signs: of root, of targets; repeatable.")
]


def rotate(
    directory: Folder,
    roles: Annotated[
        list[str], typer.Argument(metavar="ROLE...", help="root, targets, release, snapshot, timestamp, assignment; several at once.")
    ],
    brought: Brought = None,
    replace: Annotated[str, typer.Option("--replace", metavar="KEYID", help="For root: which of its keys goes; a few letters do.")] = "",
    uses: Uses = None,
    publics: Publics = None,
    new_passphrase: Annotated[
        bool, typer.Option("--new-passphrase", help="The passphrase given is a new one; for all keys of its owner at once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give roles new keys, and sign what must be signed because of it; no device enrols anew. The run must be stopped."""
    from pipeline.errors import ConfigError
    from pipeline.releases.keys import Unlock
    from pipeline.releases.rotation import ROLES
    from workers.driver.rekeying import OWNER

    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise ConfigError("ROLE", repr(unknown[0]), f"one of: {', '.join(ROLES)}", "`kdpipe keys show DIR` lists them")
    unlock = Unlock(environment=os.environ)
    elsewhere = references(uses, publics, unlock, {role: OWNER[role] for role in roles})
    _change(
        directory, list(dict.fromkeys(roles)), brought, unlock, as_json=as_json, replace=replace, elsewhere=elsewhere, anew=new_passphrase
    )


def renew(
    directory: Folder,
    roles: Annotated[list[str] | None, typer.Argument(metavar="[ROLE...]", help="root, targets; both by default.")] = None,
    brought: Brought = None,
    as_json: AsJson = False,
) -> None:
    """Sign root and targets metadata for another year with the keys they have; also after they expired. The run must be stopped."""
    from pipeline.errors import ConfigError
    from pipeline.releases.keys import Unlock

    chosen = roles or ["root", "targets"]
    unknown = [role for role in chosen if role not in ("root", "targets")]
    if unknown:
        raise ConfigError("ROLE", repr(unknown[0]), "root, targets", "a run renews the others by itself: `kdpipe run --help`")
    _change(directory, [], brought, Unlock(environment=os.environ), as_json=as_json, renew=chosen)


def _change(
    directory: Path,
    roles: list[str],
    brought: Sequence[Path] | None,
    unlock: "Unlock",
    *,
    as_json: bool,
    replace: str = "",
    renew: Sequence[str] = (),
    elsewhere: dict[str, bytes] | None = None,
    anew: bool = False,
) -> None:
    from datetime import UTC, datetime

    from workers.driver.passphrases import Passphrases
    from workers.driver.rekeying import rekey

    someone = someone_types()
    folder = repository(directory)
    done = rekey(
        folder,
        roles,
        brought=brought or (),
        passphrases=Passphrases(unlock, ask=_ask if someone else None, ask_twice=ask_twice if someone else None, anew=anew),
        now=datetime.now(UTC),
        replace=replace,
        renew=renew,
        elsewhere=elsewhere,
    )
    if as_json:
        facts = {
            "keys": dict(done.keyids),
            "files": [str(path) for path in done.files],
            "metadata": list(done.metadata),
            "mended": done.mended,
        }
        typer.echo(json.dumps(facts))
    else:
        typer.echo("\n".join(_lines(done, folder.keys)))


def _lines(done: "Rekeyed", keys: Path) -> list[str]:
    lines = [f"{role}: new key {keyid[:8]}" for role, keyid in done.keyids.items()]
    lines.append(f"signed {', '.join(done.metadata)}")
    if done.mended:
        lines.append(f"mended: {done.mended}; look with `kdpipe releases ls DIR` whether what is published is what should be")
    away = [path for path in done.files if path.parent.name == "offline"]
    if away:
        lines.append(f"move {', '.join(str(path) for path in away)} to offline storage now; nothing that runs needs it")
    lines.append("`kdpipe run` starts the orchestrator with it; devices follow when they next look for a release")
    return lines


def _ask(path: Path) -> str:
    answer: str = typer.prompt(f"passphrase of {path}", hide_input=True, err=True)
    return answer
