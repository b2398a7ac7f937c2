"""What the verbs of keys share: the folder, what unlocks keys, and keys that lie elsewhere."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.releases.keys import Unlock

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run: its keys are in DIR/keys, what they signed in DIR/releases.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]
Uses = Annotated[
    list[str] | None,
    typer.Option("--use", metavar="KEY=URI", help="A key that lies elsewhere: env:VARIABLE, or a KMS URI; repeatable."),
]
Publics = Annotated[
    list[str] | None, typer.Option("--public", metavar="KEY=FILE", help="Its public key, PEM; not asked for with env:VARIABLE.")
]
SEALED_BY = "a passphrase in each of KDPIPE_OFFLINE_PASSPHRASE, KDPIPE_RELEASE_PASSPHRASE, KDPIPE_ONLINE_PASSPHRASE (or ..._FILE)"


def someone_types() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def ask_twice(owner: str) -> str:
    """A new passphrase, typed until two are the same: a typing error would seal keys that nobody opens again."""
    answer: str = typer.prompt(f"new passphrase of the {owner} keys", hide_input=True, confirmation_prompt="the same again", err=True)
    return answer


def references(uses: Sequence[str] | None, publics: Sequence[str] | None, unlock: "Unlock", owners: dict[str, str]) -> dict[str, bytes]:
    """Key -> content of its `NAME.uri`. Raises ConfigError for a key that `owners` does not have, KeyUnusableError."""
    from pipeline.files import read_bounded
    from pipeline.releases.keys import MAX_KEY_BYTES, load_reference, public_key, reference_to

    uris, files = _pairs("--use", uses, owners), _pairs("--public", publics, owners)
    found = {}
    for name, uri in uris.items():
        public = public_key(read_bounded(Path(files[name]), MAX_KEY_BYTES), files[name]) if name in files else None
        found[name] = reference_to(uri, public, unlock, owner=owners[name])
        load_reference(found[name], unlock, where=name, owner=owners[name])
    return found


def _pairs(option: str, words: Sequence[str] | None, owners: dict[str, str]) -> dict[str, str]:
    from pipeline.errors import ConfigError

    pairs = dict(word.partition("=")[::2] for word in words or ())
    for name, value in pairs.items():
        if name not in owners or not value:
            raise ConfigError(option, f"{name}={value}", f"KEY=..., KEY one of {', '.join(sorted(owners))}", "`kdpipe keys init --help`")
    return pairs
