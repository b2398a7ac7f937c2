"""What the driver and its teacher actors say to each other: small, frozen values; label bytes are never among them."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pipeline.config import TeacherSection
from pipeline.labels.codecs import DENSE_FP16, Codec
from pipeline.labels.entries import Plan, QuarantinedRow, ShardRef
from pipeline.sources import SourceSpec


@dataclass(frozen=True, kw_only=True)
class LabellerSpec:
    """All that an actor needs to label: sent instead of open stores, sources and models."""

    store_url: str
    source: SourceSpec
    teacher: TeacherSection
    classes: tuple[str, ...]
    base: Path
    log: str = ""
    """Identity of the log that the driver writes: a worker that finds another in the store, or none, is not at the driver's store."""
    codec: Codec = DENSE_FP16
    """What shards are written with."""
    reuse: bool = True
    """Whether a row with a known input takes the label that is there."""
    embedding: bool = False
    """Whether the teacher's embedding is kept beside each label."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Label the rows [start, stop) of the row space, which lie in `plan`'s part, and put the shard at `key`."""

    lease: int
    key: str
    plan: Plan
    start: int
    stop: int
    without: tuple[int, ...] = ()
    """Rows to leave out: a repair makes the same rows as the shard it replaces, which has none that were quarantined."""
    keep_every_row: bool = False
    """A row that can't be labelled is written with a placeholder instead of left out: a repair keeps positions."""
    width: int = 1
    """Length of a placeholder's input, where inputs are lists of numbers."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Say what the teacher makes of the rows [start, stop), which lie in `plan`'s part; nothing is written."""

    plan: Plan
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An assignment was done."""

    lease: int
    shard: ShardRef | None
    """None if no row could be labelled."""
    bad: tuple[QuarantinedRow, ...]
    teacher: str
    teacher_rows: int
    """Rows the teacher was asked about."""
    teacher_s: float
    reused: int = 0
    """Rows with a label that nobody was asked for: their input was known, or is that of another row of the unit."""
    refused: bool = False
    """The teacher was asked and failed on every row."""
    unit_bytes: int = 0
    """Of its rows in memory."""
    embedding_width: int | None = None
    """Of the shard's embeddings, if it has any."""


class Trouble(Enum):
    GONE = "gone"
    """The part is no longer what was planned."""
    READ = "read"
    WRITE = "write"
    FULL = "full"
    """No space left."""
    LARGE = "large"
    """More than a shard may hold: to be divided. Nobody was asked."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An assignment could not be done, through no fault of a single row."""

    lease: int
    trouble: Trouble
    reason: str
    unit_bytes: int = 0
    """Of its rows in memory, if they are too large."""
