"""Changing several files as one: what is to be written is durable first, so that a crash in between is finished by the next who looks.

The journal lies in the keys' folder, mode 0600, as secret as what it holds. Every write in it may be done again. Who changes a published
repository, its keys or its metadata, is alone with it (`alone_with`): what is read there stays true until it is written.
"""

import base64
import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ReleaseError
from pipeline.files import make_private_folder, read_bounded, sync_folder, write_atomic

JOURNAL = "journal.json"
JOURNAL_VERSION = 1
MAX_JOURNAL_BYTES = 64 << 20
KEYS, METADATA = "keys", "metadata"


class JournalBrokenError(ReleaseError):
    """A change of keys was begun by another version, or its journal was damaged."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.found}; expected a journal of version {JOURNAL_VERSION}; finish the change with the version that began it"
        )


@contextlib.contextmanager
def alone_with(repo_dir: Path) -> Iterator[None]:
    """No other process changes this repository until the end; waits for one that does. Not to be nested."""
    with (repo_dir / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def commit(keys_dir: Path, repo_dir: Path, files: Mapping[str, bytes | None]) -> None:
    """Write all files, or, after a crash, none until `finish`; for who is alone with the repository.

    Names begin with `keys/` or `metadata/`; None deletes. Written in the order given: what names other files comes last.
    """
    entries = [[name, base64.b64encode(data).decode() if data is not None else None] for name, data in files.items()]
    write_atomic(keys_dir / JOURNAL, json.dumps({"version": JOURNAL_VERSION, "files": entries}).encode())
    finish(keys_dir, repo_dir)


def finish(keys_dir: Path, repo_dir: Path) -> bool:
    """Do what a crash left to be done; whether there was anything. Raises JournalBrokenError."""
    journal = keys_dir / JOURNAL
    try:
        tree: dict[str, Any] = json.loads(read_bounded(journal, MAX_JOURNAL_BYTES))
        if tree["version"] != JOURNAL_VERSION:
            raise JournalBrokenError(str(journal), f"version {tree['version']!r:.20}")
        files = [(_path(keys_dir, repo_dir, name), base64.b64decode(text) if text is not None else None) for name, text in tree["files"]]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise JournalBrokenError(str(journal), f"{type(error).__name__} {error}"[:120]) from error
    for path, data in files:
        if data is None:
            path.unlink(missing_ok=True)
        else:
            make_private_folder(path.parent)
            write_atomic(path, data)
    journal.unlink()
    sync_folder(keys_dir)
    return True


def _path(keys_dir: Path, repo_dir: Path, name: str) -> Path:
    place, _, rest = name.partition("/")
    if place not in (KEYS, METADATA) or ".." in rest.split("/") or not rest:
        raise ValueError(f"a file {name!r:.80}")
    return keys_dir / rest if place == KEYS else repo_dir / METADATA / rest
