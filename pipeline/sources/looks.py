"""Files as they lie on a disk that others write to: which of them rest, and hashes of what they hold.

The first look takes every file as it is. Later a file counts once two looks in succession find it the same, so that one that is still being
written does not. The caller says what is there and does something with what rests.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

HASHED_AT_ONCE = 8
"""Files. More threads than processors cost nothing here; a disk is read by a handful at most."""
READ_BYTES = 2**18

File = TypeVar("File", bound=Hashable)
"""How the caller names a file."""
Result = TypeVar("Result")
State = tuple[int, int, int]
"""Size, time of a change in nanoseconds, and inode: equal while nobody writes."""


def state_of(path: Path) -> State | None:
    """None if the file is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


class Looks(Generic[File]):
    """What the last look found."""

    def __init__(self) -> None:
        self._last: Mapping[File, State] | None = None

    @property
    def first(self) -> bool:
        """Whether nobody has looked yet."""
        return self._last is None

    def resting(self, now: Mapping[File, State]) -> list[File]:
        """Those of `now` that may be taken up; the next look is compared with this one."""
        last, self._last = self._last, now
        return [file for file, state in now.items() if last is None or last.get(file) == state]


def digest_of(path: Path, size: int) -> bytes:
    """SHA-256, which processors compute faster than anything else as strong, of the file's first `size` bytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(size, READ_BYTES)))
    with path.open("rb", buffering=0) as file:
        while size > 0 and (read := file.readinto(buffer[:size])):
            digest.update(buffer[:read])
            size -= read
    return digest.digest()


def at_once(look: Callable[[File], Result], files: Iterable[File]) -> list[Result]:
    """`look` at each file, several at a time: hashing needs no interpreter. Raises what the first of them that fails does."""
    waiting = list(files)
    if not waiting:
        return []
    with ThreadPoolExecutor(min(len(waiting), HASHED_AT_ONCE)) as pool:
        return list(pool.map(look, waiting))
