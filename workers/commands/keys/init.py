"""`kdpipe keys init`: keys and an empty repository, before the first run."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from workers.commands.keys.arguments import SEALED_BY, AsJson, Folder, Publics, Uses, ask_twice, references, someone_types


def init(
    directory: Folder,
    uses: Uses = None,
    publics: Publics = None,
    unsealed: Annotated[bool, typer.Option("--unsealed", help="Keys without a passphrase, for trying things out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the keys of a new repository, each under its owner's passphrase, and its first metadata; `kdpipe run --dir DIR` uses them."""
    from datetime import UTC, datetime

    from pipeline.errors import ConfigError
    from pipeline.files import create_exclusive, make_private_folder
    from pipeline.releases.journal import finish
    from pipeline.releases.keys import OFFLINE, OWNERS, ROOT_KEYS, Unlock, passphrase_variable
    from pipeline.releases.repository import create_repository
    from workers.driver.folder import RunFolder
    from workers.driver.rekeying import OWNER, held_still

    folder, unlock = RunFolder(directory.resolve()), Unlock(environment=os.environ)
    if (folder.releases / "metadata" / "timestamp.json").exists():
        raise ConfigError(str(directory), "a repository is here already", "a folder without one", "`kdpipe keys show DIR` describes it")
    owners = {**dict.fromkeys(ROOT_KEYS, OFFLINE), **{role: owner for role, owner in OWNER.items() if role != "root"}}
    elsewhere = references(uses, publics, unlock, owners)
    here = {owners[name] for name in owners.keys() - elsewhere.keys()}
    missing = [owner for owner in OWNERS if owner in here and unlock.passphrase(owner) is None]
    if missing and not unsealed and someone_types():
        typed = {passphrase_variable(owner): ask_twice(owner) for owner in missing}
        unlock = Unlock(environment={**os.environ, **typed})
    elif missing and not unsealed:
        raise ConfigError("keys init", f"no passphrase for the {', '.join(missing)} keys", SEALED_BY, "set them, or say --unsealed")
    with held_still(folder):
        finish(folder.keys, folder.releases)
        for name, reference in elsewhere.items():
            place = make_private_folder(folder.keys / owners[name])
            create_exclusive(place / f"{name}.uri", reference)
        created = create_repository(folder.keys, folder.releases, now=datetime.now(UTC), unlock=unlock)
    if as_json:
        typer.echo(json.dumps({"repository": str(created.repository), "keys": str(created.keys), "offline": _offline(created.keys)}))
        return
    typer.echo(f"made {created.keys} and {created.repository}")
    typer.echo(created.notice())


def _offline(keys: Path) -> list[str]:
    return sorted(str(path) for path in (keys / "offline").iterdir())
