"""The folder of a run: where each thing lies, and who holds it.

    DIR/origin.json                      the run file as it was read, and where its relative paths begin
    DIR/run.json  status.json            the summary; what the driver is doing now
    DIR/driver.lock  children.json       the holder (flock); processes it started
    DIR/labels/                          label store: log and shards
    DIR/training/                        Ray Train's checkpoints
    DIR/generations/000001/              one turn of the loop: students, verdicts, releases
    DIR/releases/  keys/                 TUF repository; keys (offline, release, online)
    DIR/fleet/  devices/NAME/            the orchestrator's and each device's own state
    DIR/logs/PART.log

The lock is `flock`, so it ends with its process however that ends; the name inside is for people.
"""

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.errors import ConfigError, FolderBusyError
from pipeline.files import make_private_folder, read_bounded, write_atomic

MAX_JSON_BYTES = 16 * 2**20
LOOKS_LAST_S = 0.3
LABEL_ENTRIES = ("labels", "training", "bad-shards.json")
"""What a run loses when its labels are thrown away; generations, releases and devices stay."""
RECIPE_ENTRIES = ("data", "feeds", "inbox", "teacher")
"""What a recipe makes, where it made its files in the run's own folder."""
RUN_ENTRIES = (
    *LABEL_ENTRIES,
    *("children.json", "run.json", "status.json", "metrics.json", "lineage.jsonl", "logs", "answers"),
    *("generations", "releases", "keys", "fleet", "devices"),
    "origin.json",
    "driver.lock",
)
"""All that a run makes; the lock goes last, after the mark of a run: nobody starts in a folder that is being cleaned."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; makes nothing by itself."""

    root: Path

    @classmethod
    def existing(cls, root: Path) -> Self:
        """The folder of a run that was started once. Raises ConfigError where there is none."""
        folder = cls(root.resolve())
        if not folder.origin_file.exists():
            raise ConfigError(
                str(root), "no run was started here (origin.json is missing)", "the DIR of a `kdpipe run`", "`kdpipe run spam` starts one"
            )
        return folder

    @property
    def origin_file(self) -> Path:
        return self.root / "origin.json"

    @property
    def summary_file(self) -> Path:
        return self.root / "run.json"

    @property
    def status_file(self) -> Path:
        return self.root / "status.json"

    @property
    def bad_shards_file(self) -> Path:
        """Shards that `kdpipe labels verify` found bad, for the next run to label again."""
        return self.root / "bad-shards.json"

    @property
    def children_file(self) -> Path:
        return self.root / "children.json"

    @property
    def labels(self) -> Path:
        return self.root / "labels"

    @property
    def training(self) -> Path:
        return self.root / "training"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def fleet(self) -> Path:
        return self.root / "fleet"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def device(self, name: str) -> Path:
        return self.root / "devices" / name

    def generation(self, number: int) -> Path:
        return self.root / "generations" / f"{number:06d}"

    def generations(self) -> list[int]:
        """Numbers of the generations that were opened, ascending."""
        return sorted(int(path.name) for path in (self.root / "generations").glob("[0-9]*") if (path / "opening.json").exists())


def read_json(path: Path) -> Any:
    """The file's JSON, or None where there is no file."""
    try:
        return json.loads(read_bounded(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


class Holder:
    """Holds a run's folder for this process. Use as a context manager; raises FolderBusyError where another live run holds it."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        make_private_folder(self._folder.root)
        descriptor = os.open(self._folder.root / "driver.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock_soon(descriptor)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            raise FolderBusyError(str(self._folder.root), holder or "starting") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _lock_soon(descriptor: int) -> None:
    """Take the lock, trying for a moment: who only looks (`holder_of`) has it as briefly. Raises BlockingIOError."""
    deadline_s = time.monotonic() + LOOKS_LAST_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
        else:
            return


def holder_of(folder: RunFolder) -> int | None:
    """Process id of the live run that holds the folder, or None. Takes the lock for a moment, never keeps it."""
    try:
        descriptor = os.open(folder.root / "driver.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(descriptor, 200, 0).decode(errors="replace").split()
        return int(words[1]) if len(words) == 2 and words[1].isdigit() else -1
    finally:
        os.close(descriptor)
    return None
