"""Writing and reading local files so that a crash at any instruction leaves the old bytes, the new bytes or nothing.

Each write goes to a temporary file in the same folder, is fsynced, then renamed or linked into place, and the folder is
fsynced. A temporary file that a crash left behind starts with `.tmp-` and is never read.
"""

import errno
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import DataError, MachineError

TEMPORARY = ".tmp-"
"""How the name of a file begins that is not whole yet."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ROOM = ("room for it", "free some of the disk, or name a folder on another one (`--dir`); run again: it goes on from what is written")
_RIGHTS = ("one that this user may read and write", "change its owner or mode, or name another")
_OTHER_KIND = ("none of that name, or one of the right kind (a folder, a file)", "name another, or move what is there")
EXPECTED: Mapping[int, tuple[str, str]] = {
    **dict.fromkeys(DISK_FULL, _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), _OTHER_KIND),
    errno.ENOENT: ("it to be there, or a place where it can be made", "name another, or put it back"),
    errno.ENAMETOOLONG: ("a shorter name", "name another"),
    errno.EIO: ("a disk that answers", "look at the machine's log (`dmesg`)"),
}
"""What the operating system may say of a file -> what was expected, and what to do."""


class FileRefusedError(MachineError):
    """The operating system does not let a file or folder be read or written."""

    def __init__(self, path: str, found: str, number: int) -> None:
        super().__init__(path, found, number)
        self.path, self.found, self.number = path, found, number

    def __str__(self) -> str:
        expected, next_step = EXPECTED.get(self.number, ("a file that can be used", "look at it"))
        return f"{self.path}: {self.found}; expected {expected}; {next_step}"


def refused(error: OSError) -> FileRefusedError | None:
    """What an error of the operating system means for a person; None where it is not about a file."""
    number = error.errno
    if number is None or number not in EXPECTED:
        return None
    path = error.filename2 or error.filename
    return FileRefusedError(
        os.fsdecode(path) if isinstance(path, str | bytes) else "this machine", error.strerror or os.strerror(number), number
    )


class FileTooLargeError(DataError):
    """A file is larger than its reader is willing to hold."""

    def __init__(self, path: str, found_bytes: int, max_bytes: int) -> None:
        super().__init__(path, found_bytes, max_bytes)
        self.path, self.found_bytes, self.max_bytes = path, found_bytes, max_bytes

    def __str__(self) -> str:
        return f"{self.path}: {self.found_bytes} bytes; expected at most {self.max_bytes}; look at what wrote it"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`. A crash leaves the old content or the new, never a mix."""
    temporary = _write_temporary(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_exclusive(path: Path, data: bytes, *, mode: int = 0o600) -> bool:
    """Create `path` with `data` unless it exists. True for the one caller that made it; of two at once exactly one wins."""
    temporary = _write_temporary(path, data, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync_folder(path.parent)
    return True


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The file's bytes. Raises FileTooLargeError beyond `max_bytes`, FileNotFoundError where there is none."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FileTooLargeError(str(path), path.stat().st_size, max_bytes)
    return data


def make_private_folder(path: Path) -> Path:
    """Create `path` and its parents, durably; `path` itself is readable by its owner only."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    for folder in missing:
        sync_folder(folder.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f"{TEMPORARY}{path.name[:64]}-{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
