"""Writing and reading local files so that a crash at any instruction leaves the old bytes, the new bytes or nothing.

Each write goes to a temporary file in the same folder, is fsynced, then renamed or linked into place, and the folder is
fsynced. A temporary file that a crash left behind starts with `.tmp-` and is never read.
"""

import os
import secrets
from pathlib import Path

from pipeline.errors import DataError

TEMPORARY = ".tmp-"
"""How the name of a file begins that is not whole yet."""


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
