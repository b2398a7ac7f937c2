"""What goes into a labelling run from outside, and what comes out: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the trainers want at this moment."""

    cursors: Mapping[str, int] = field(default_factory=dict)
    """Student in TRAINING -> rows of the generation's live pass that it has consumed. Empty: labelling is not held back."""
    starved: bool = False
    """A trainer waits for labels."""
    corrupt: frozenset[str] = frozenset()
    """Keys of committed shards that somebody found bad (`ShardCorruptError.shard`): they are labelled again."""


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What there is to label, before any teacher starts. Rows are of the whole log, all generations."""

    generation: int
    ended: bool
    """The generation has all its labels; new rows belong to the next one."""
    parts: int
    parts_new: int
    rows_known: int
    """Planned by earlier runs."""
    rows_new: int
    """Seen for the first time."""
    rows_superseded: int
    """Without label, of parts that changed since they were planned: set aside, since what is there now is new."""
    rows_left: int
    """Planned and neither labelled nor quarantined; what a teacher will be asked about. 0 once the generation has ended."""


@dataclass(frozen=True, kw_only=True)
class LabellingProgress:
    """Rows are of the whole log; `teacher_calls`, seconds and times are of this run."""

    rows_planned: int
    rows_committed: int
    rows_quarantined: int
    generation_rows: int
    """Committed rows of this generation: what its live pass can read so far. 0 in a run that had nothing to do."""
    rows_per_s: float
    """Committed, over the last seconds since the first commit."""
    teacher_calls: int
    """Rows a teacher was asked about."""
    rows_reused: int
    """Rows that took a label which was there."""
    teacher_s: float
    """Summed over teachers."""
    actors: int
    windows: int
    lead_rows: int | None
    """Committed rows ahead of the slowest student in training; None without one."""
    first_commit_unix_s: float | None
    last_commit_unix_s: float | None
    teachers_taken_out: int = 0
    """Replicas that answered otherwise, or much more slowly, than the others."""
    says: str = ""
    """Why it does not go faster, in words, if there is something to say."""


@dataclass(frozen=True, kw_only=True)
class LabellingOutcome(LabellingProgress):
    """The last word of a run."""

    generation: int
    ended: bool
    """False if it was stopped before the end, or repaired while it is open."""
    repaired: tuple[str, ...] = ()
    """Keys of committed shards that were labelled again."""
    rows_forgotten: int = 0
    """Rows of repaired shards that could not be labelled again: their weight is 0 from now on."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Committed shard that stays bad -> which rows can't be labelled again, and why; only where forgetting them was not wanted."""
