"""Whether a worker's node sees the driver's labels and folder: what it wrote elsewhere, nobody would ever find.

The driver leaves an empty file of a name that nobody used before, so that no cache of a network file system knows it, and gives the name
along; a worker looks for it before anything else. The same for the log, by its id.
"""

import contextlib
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import LabelStoreError, StudentError
from pipeline.labels.log import LogReader
from pipeline.labels.store import open_store


class StoreNotSharedError(LabelStoreError):
    """A worker's store is not the driver's: what it labels there nobody would ever see."""

    def __init__(self, url: str, node: str) -> None:
        super().__init__(url, node)
        self.url, self.node = url, node

    def __str__(self) -> str:
        return (
            f"label store {self.url}: node {self.node} does not see the log that the driver writes there; expected a place that all nodes "
            "share; set `labelling.store` to one, see docs/labels-storage.md"
        )


class FolderNotSharedError(StudentError):
    """A worker's node does not see the run's folder: neither checkpoints nor weights would be found again."""

    def __init__(self, folder: str, node: str) -> None:
        super().__init__(folder, node)
        self.folder, self.node = folder, node

    def __str__(self) -> str:
        return (
            f"{self.folder}: node {self.node} does not see what the driver writes there; expected a folder that all nodes with trainers "
            "share, at one path; run again with --dir on such storage, see docs/students.md"
        )


@contextlib.contextmanager
def proof_in(folder: Path) -> Iterator[str]:
    """Leaves a file in `folder` for as long as this lasts; its name."""
    folder.mkdir(parents=True, exist_ok=True)
    proof = folder / f"driver-{secrets.token_hex(8)}"
    proof.touch()
    try:
        yield proof.name
    finally:
        proof.unlink(missing_ok=True)


def log_seen(store_url: str) -> str:
    """Id of the log there; empty where there is none."""
    return LogReader(open_store(store_url)).refresh().log


def check_log(store_url: str, log: str) -> None:
    """Raises StoreNotSharedError on a node that sees another log than the driver, or none. An empty id is not looked for."""
    if log and log_seen(store_url) != log:
        raise StoreNotSharedError(store_url, socket.gethostname())


def check_folder(folder: Path, proof: str) -> None:
    """Raises FolderNotSharedError on a node that does not see what the driver left."""
    if not (folder / proof).exists():
        raise FolderNotSharedError(str(folder), socket.gethostname())
