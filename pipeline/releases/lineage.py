"""Lineage: where each release came from, and how often the `gate` part was looked at.

An append-only log of JSON lines beside the repository: one `judged` entry for each use of the validation's `gate` part, one `released`
entry for each version that shipped. Entries carry their number; a torn last line (a crash while appending) is cut off before
the next append, a broken line before it is an error. One writer at a time.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ReleaseError
from pipeline.files import read_bounded, sync_folder

VERSION = 1
MAX_LINEAGE_BYTES = 256 << 20


class LineageCorruptError(ReleaseError):
    """The lineage has a line that does not read."""

    def __init__(self, path: str, line: int, found: str) -> None:
        super().__init__(path, line, found)
        self.path, self.line, self.found = path, line, found

    def __str__(self) -> str:
        return f"{self.path} line {self.line}: {self.found}; expected an entry of version {VERSION}; restore the file from a copy"


@dataclass(frozen=True, kw_only=True)
class LineageEntry:
    """One fact. `judged`: the gate part was used once. `released`: the version was signed as `target`."""

    what: Literal["judged", "released"]
    student: str
    generation: int
    """Turn of the loop."""
    parent: str | None
    """Digest of the release that training started from."""
    teacher: str
    digest: str
    """Of the bundle, or of the graph's file where no bundle was made."""
    passed: bool
    at_unix_s: int
    release: int | None = None
    target: str | None = None


class Lineage:
    """The log at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> tuple[LineageEntry, ...]:
        """All facts in order. A torn last line is left out. Raises LineageCorruptError."""
        return tuple(_entry(str(self._path), number, line) for number, line in enumerate(self._lines(), 1))

    def gate_uses(self, student: str) -> int:
        """How often the gate part decided about this student."""
        return sum(entry.what == "judged" and entry.student == student for entry in self.entries())

    def append(self, entry: LineageEntry) -> bool:
        """Make one fact durable. False, and nothing written, if the log holds it already (same fact, whatever its time): a killed driver
        repeats itself.
        """
        if any(_fact(entry) == _fact(other) for other in self.entries()):
            return False
        self.append_again(entry)
        return True

    def append_again(self, entry: LineageEntry) -> None:
        """Make one fact durable, also where it happened before: a person who asks twice has looked twice."""
        line = json.dumps({"version": VERSION, "number": len(self.entries()) + 1, **asdict(entry)}, separators=(",", ":")) + "\n"
        fresh = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            end = sum(len(known_line) + 1 for known_line in self._lines())
            os.ftruncate(descriptor, end)
            os.pwrite(descriptor, line.encode(), end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if fresh:
            sync_folder(self._path.parent)

    def _lines(self) -> list[bytes]:
        try:
            data = read_bounded(self._path, MAX_LINEAGE_BYTES)
        except FileNotFoundError:
            return []
        return data.split(b"\n")[:-1]


def _fact(entry: LineageEntry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "at_unix_s"}


def _entry(path: str, number: int, line: bytes) -> LineageEntry:
    try:
        tree: Mapping[str, Any] = json.loads(line)
        if tree["version"] != VERSION or tree["number"] != number or tree["what"] not in ("judged", "released"):
            raise LineageCorruptError(path, number, f"version {tree['version']}, number {tree['number']}, {tree['what']!r:.20}")
        return LineageEntry(**{field.name: tree[field.name] for field in fields(LineageEntry)})
    except (ValueError, KeyError, TypeError) as error:
        raise LineageCorruptError(path, number, f"{type(error).__name__} {error}"[:120]) from error
