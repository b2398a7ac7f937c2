"""Downloading a bundle or a delta: ranged, resumable, bounded, and never visible before it is whole.

Bytes go to `DIGEST.part`; a new try goes on where the last one stopped. The name says nothing about the content: only
`verify` does, against the length and digest of signed metadata. More bytes than signed end the download at once.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pipeline.errors import DeviceError
from pipeline.files import make_private_folder, sync_folder
from pipeline.releases.bundle import digest_file
from workers.edge.fleet_client import FleetUnreachableError

Fetch = Callable[[str, int], Iterator[bytes]]
"""(digest, offset) -> chunks."""


class DownloadRefusedError(DeviceError):
    """The bytes are not the signed ones. `code` is for the report."""

    def __init__(self, digest: str, code: str, found: str) -> None:
        super().__init__(digest, code, found)
        self.digest, self.code, self.found = digest, code, found

    def __str__(self) -> str:
        return f"bundle {self.digest[:12]}: {self.found}; expected the length and digest that were signed; the device keeps what it runs"


def part_path(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.part"


def download(folder: Path, fetch: Fetch, *, digest: str, length: int, on_bytes: Callable[[int], None] = lambda _: None) -> Path:
    """Bring `DIGEST.part` to its full length, durable. A crash, or an error, keeps what arrived.

    What a resumed download adds up to is checked here, and downloaded anew once if the old bytes had gone bad. Raises
    DownloadRefusedError, FleetUnreachableError, FleetRefusedError.
    """
    make_private_folder(folder)
    path = part_path(folder, digest)
    had = path.stat().st_size if path.exists() else 0
    if had > length:
        path.unlink()
        had = 0
    _append(path, fetch, digest, had, length, on_bytes)
    if had > 0 and digest_file(path) != (digest, length):
        path.unlink()
        _append(path, fetch, digest, 0, length, on_bytes)
    sync_folder(folder)
    return path


def verify(path: Path, *, digest: str, length: int) -> None:
    """Raises DownloadRefusedError, after which the file is gone."""
    found, found_length = digest_file(path)
    if (found, found_length) != (digest, length):
        path.unlink()
        raise DownloadRefusedError(digest, "digest_mismatch", f"{found_length} bytes with digest {found[:12]}")


def arrived_bytes(folder: Path) -> int:
    """What is here of downloads under way."""
    sizes = []
    with contextlib.suppress(FileNotFoundError):  # no download yet, or it ended meanwhile
        sizes += [path.stat().st_size for path in folder.iterdir()]
    return sum(sizes)


def clear(folder: Path, *, keep: Collection[str]) -> None:
    """Delete downloads that nothing wants any more; `keep` are digests."""
    kept = {part_path(folder, digest) for digest in keep}
    if folder.is_dir():
        for path in folder.iterdir():
            if path not in kept:
                path.unlink()


def _append(path: Path, fetch: Fetch, digest: str, offset: int, length: int, on_bytes: Callable[[int], None]) -> None:
    if offset == length:
        return
    with path.open("ab") as file:
        try:
            for chunk in fetch(digest, offset):
                if not chunk:
                    raise FleetUnreachableError("Fetch", "an empty chunk")
                if offset + len(chunk) > length:
                    raise DownloadRefusedError(digest, "wrong_length", f"more than the {length} bytes that were signed")
                file.write(chunk)
                offset += len(chunk)
                on_bytes(len(chunk))
                if offset == length:
                    break
        finally:
            file.flush()
            os.fsync(file.fileno())
    if offset < length:
        raise FleetUnreachableError("Fetch", f"the stream ended at byte {offset} of {length}")
