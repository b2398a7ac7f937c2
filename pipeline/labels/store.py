"""Where shards and the log live: named, whole, immutable-looking objects.

An object is there with all its bytes or not at all, whatever crashes. `put_if_absent` is the one conditional write, and all
that the log's safety rests on: of any number of callers at once exactly one is told that it made the object.
What the objects mean is left to `shard` and `log`.
"""

import contextlib
import mmap
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote, urlparse

from pipeline.errors import ConfigError, LabelStoreError, MachineError
from pipeline.files import (
    DISK_FULL,
    TEMPORARY,
    FileTooLargeError,
    create_exclusive,
    make_private_folder,
    read_bounded,
    sync_folder,
    write_atomic,
)

OBJECT_MAX_BYTES = 1 << 30
"""No object of ours comes near; a bigger one is not ours."""

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def checked_key(key: str) -> str:
    """The key, which names a place below the store and nowhere else. Raises ValueError."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a key: {key!r}")
    return key


class Store(Protocol):
    """Objects by key. Keys are relative paths of letters, digits, `.`, `_` and `-`; no part begins with a dot."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object. True if this call made it, False if it was there. An exception means: either may be so."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the object; a reader sees the old bytes or the new."""

    def get(self, key: str) -> bytes:
        """All bytes. Raises ObjectMissingError."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length), fewer where the object ends. Raises ObjectMissingError."""

    def delete(self, *keys: str) -> None:
        """Remove the objects; one that is not there is fine."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that begin with `prefix`, ascending."""

    def size(self, key: str) -> int | None:
        """Bytes of the object, None where there is none."""


@runtime_checkable
class MappedStore(Protocol):
    """A store whose objects can be looked at in place, without a copy."""

    def map(self, key: str) -> memoryview:
        """All bytes, read-only. Raises ObjectMissingError."""


class ObjectMissingError(LabelStoreError):
    """No object has this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"no object {self.key!r} in the label store; expected one; `kdpipe labels verify` lists what is wrong"


class StoreFullError(MachineError):
    """The disk beneath the store is full; nothing was written."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"no space left to write {self.key!r} to the label store; expected some; free it and the run goes on"


class LocalStore:
    """Objects as files below one private folder: temporary file, fsync, link or rename, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()
        """Folders that this process has seen to."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        try:
            return create_exclusive(self._path_to_write(key), data)
        except OSError as error:
            raise _translated(error, key) from error

    def put(self, key: str, data: bytes) -> None:
        try:
            write_atomic(self._path_to_write(key), data)
        except OSError as error:
            raise _translated(error, key) from error

    def get(self, key: str) -> bytes:
        try:
            return read_bounded(self._path(key), OBJECT_MAX_BYTES)
        except FileNotFoundError as error:
            raise ObjectMissingError(key) from error

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if not 0 <= length <= OBJECT_MAX_BYTES:
            raise FileTooLargeError(key, length, OBJECT_MAX_BYTES)
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except FileNotFoundError as error:
            raise ObjectMissingError(key) from error

    def map(self, key: str) -> memoryview:
        try:
            with self._path(key).open("rb") as file:
                # An empty file cannot be mapped.
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if file.seek(0, 2) else memoryview(b"")
        except FileNotFoundError as error:
            raise ObjectMissingError(key) from error

    def delete(self, *keys: str) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        # Only the folder part of the prefix need be walked. A temporary file of a crashed writer begins with a dot.
        folder = self.root / prefix.rpartition("/")[0]
        found = (path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file())
        yield from sorted(key for path in found if (key := path.relative_to(self.root).as_posix()).startswith(prefix))

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None

    def free_bytes(self) -> int:
        """Bytes free on the disk beneath."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def unfinished(self, before_unix_s: float) -> dict[str, int]:
        """Files that a crash left half written and nobody has touched since then: path below the root -> bytes."""
        found = {}
        for path in sorted(self.root.rglob(f"{TEMPORARY}*")):
            with contextlib.suppress(FileNotFoundError):  # it was finished at this moment
                stat = path.stat()
                if stat.st_mtime < before_unix_s:
                    found[str(path.relative_to(self.root))] = stat.st_size
        return found

    def delete_unfinished(self, names: Iterable[str]) -> None:
        """Remove what `unfinished` named."""
        for name in names:
            (self.root / name).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def _path_to_write(self, key: str) -> Path:
        path = self._path(key)
        if path.parent not in self._durable or not path.parent.is_dir():
            make_private_folder(self.root)
            for folder in reversed(path.parents[: len(path.relative_to(self.root).parts) - 1]):
                make_private_folder(folder)
                sync_folder(folder.parent)  # another process may have made it, and not have come this far
            self._durable.add(path.parent)
        return path


def _translated(error: OSError, key: str) -> Exception:
    return StoreFullError(key) if error.errno in DISK_FULL else error


def open_store(url: str) -> Store:
    """The store at `url`: a local path, `file:///path`, or an object store as in `objects`. Raises ConfigError for anything else."""
    parts = urlparse(url)
    if parts.scheme in ("s3", "gs", "az"):
        from pipeline.labels.objects import ObjectStore  # a run on local disk need not load it

        return ObjectStore(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalStore(Path(unquote(parts.path)))
    if "://" in url:
        raise ConfigError("label store", repr(url), "a local folder, or s3://, gs:// or az://BUCKET/PREFIX", "correct `labelling.store`")
    return LocalStore(Path(url))


def remove_labels(store: Store) -> None:
    """Delete every object that a label store is made of. After a crash, do it again."""
    for prefix in ("shards/", "known/", "log/"):
        store.delete(*store.list(prefix))
