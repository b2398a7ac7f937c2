"""What the log says: one record per log object, some entries per record, as JSON.

A value here is a fact as it was written; what the facts add up to is `state`. A record of another version, an entry of an
unknown kind and a field that nobody knows are refused: half-understanding a log loses labels.
Rows are global row numbers: the row space that `Plan` entries lay out, part after part.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import LabelStoreError

LOG_VERSION: Literal[1] = 1

Count = Annotated[int, Field(ge=0)]


def record_key(seq: int) -> str:
    """Key of record number `seq`."""
    return f"log/{seq:020d}.json"


class Fact(BaseModel):
    """Base of all that the log stores: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardRef(Fact):
    """A shard as it was when it was written."""

    key: str
    rows: Annotated[int, Field(ge=1)]
    bytes: Count
    crc32: Count


class Open(Fact):
    """A committer took the log over: from this record on only its term counts."""

    kind: Literal["open"] = "open"
    holder: str
    """Who, for people: host, process, folder."""
    classes: tuple[str, ...]


class Plan(Fact):
    """A part of the source gets the next `rows` rows of the row space.

    Global row `first + p` is row `offset + transposed(p, rows, stride)` of the part: a unit is a stride through it, never a run.
    A file that grew is planned from where an older plan of it ends.
    """

    kind: Literal["plan"] = "plan"
    part: str
    name: str
    first: Count
    rows: Count
    stride: Annotated[int, Field(ge=1)]
    offset: Count = 0


class QuarantinedRow(Fact):
    row: Count
    reason: str


class Commit(Fact):
    """The rows [start, stop) are labelled, all but `quarantined`: they are the rows of `shard`, ascending."""

    kind: Literal["commit"] = "commit"
    start: Count
    stop: Count
    shard: ShardRef
    quarantined: tuple[QuarantinedRow, ...] = ()
    teacher: str
    """Fingerprint."""
    teacher_s: float
    """Seconds the teacher took for them."""
    reused: Count = 0
    """Of the labelled rows, those with a label that was there: nobody was asked for it."""

    @model_validator(mode="after")
    def _rows_add_up(self) -> Self:
        if self.stop - self.start != self.shard.rows + len(self.quarantined):
            raise ValueError(f"rows {self.start} to {self.stop} are not {self.shard.rows} labelled and {len(self.quarantined)} quarantined")
        return self


class Quarantine(Fact):
    """The rows [start, stop) have no label and will get none unless somebody asks again."""

    kind: Literal["quarantine"] = "quarantine"
    start: Count
    stop: Count
    reason: str


class Retry(Fact):
    """Those of the rows [start, stop) that are quarantined now are work again, for the next generation that labels."""

    kind: Literal["retry"] = "retry"
    start: Count
    stop: Count


class Seal(Fact):
    """The commits [first_commit, stop_commit), counted over the whole log, are window number `window`, for ever."""

    kind: Literal["seal"] = "seal"
    window: Count
    first_commit: Count
    stop_commit: Count
    rows: Count


class Repair(Fact):
    """The bytes of a committed shard went bad; `by` holds the same rows at the same places."""

    kind: Literal["repair"] = "repair"
    shard: str
    """Key of the shard that the commit names."""
    by: ShardRef
    teacher: str


class Tombstone(Fact):
    """The rows [start, stop) keep their positions, and weigh nothing from now on."""

    kind: Literal["tombstone"] = "tombstone"
    start: Count
    stop: Count
    reason: str


class Supersede(Fact):
    """The file of the rows [start, stop) was replaced: for readers of generation `generation` and younger ones they weigh nothing.

    Their positions stay, and their labels stay known.
    """

    kind: Literal["supersede"] = "supersede"
    start: Count
    stop: Count
    generation: Count


class Reinstate(Fact):
    """The file of the rows [start, stop) is there again as it was: from generation `generation` on they weigh as before."""

    kind: Literal["reinstate"] = "reinstate"
    start: Count
    stop: Count
    generation: Count


class Floor(Fact):
    """Generations that have not begun yet replay from window `window` on. Only says what may go; a `Drop` says what goes."""

    kind: Literal["floor"] = "floor"
    window: Count


class Drop(Fact):
    """The bytes of all windows before `stop_window`, the commits before `stop_commit`, go: this is written before the first is deleted."""

    kind: Literal["drop"] = "drop"
    stop_window: Count
    stop_commit: Count
    reason: str


class Sweep(Fact):
    """Deleted is what was put in terms before `term` and no commit names, and what the dropped commits before `stop_commit` held."""

    kind: Literal["sweep"] = "sweep"
    term: Annotated[int, Field(ge=1)]
    stop_commit: Count


class End(Fact):
    """Generation `generation` has all its windows. It closes the generation, not the log."""

    kind: Literal["end"] = "end"
    generation: Count


Entry = Annotated[
    Open | Plan | Commit | Quarantine | Retry | Seal | Repair | Tombstone | Supersede | Reinstate | Floor | Drop | Sweep | End,
    Field(discriminator="kind"),
]


class Record(Fact):
    """One log object. `nonce` is the writer's own and never used by another, so that it knows its record again."""

    version: Literal[1] = LOG_VERSION
    term: Annotated[int, Field(ge=1)]
    nonce: str
    at_unix_s: float
    """The writer's clock, for people and figures; nothing is decided by it."""
    entries: tuple[Entry, ...]

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, data: bytes, *, key: str) -> "Record":
        """Raises LogUnreadableError."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise LogUnreadableError(key, f"{where}: {first['msg'].lower()}") from error


class LogUnreadableError(LabelStoreError):
    """A log record is damaged, of a newer version, or contradicts the records before it."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key, self.problem = key, problem

    def __str__(self) -> str:
        return (
            f"{self.key}: {self.problem}; expected a record of version {LOG_VERSION} that continues the log; "
            "was it written by a newer kdpipe, or by hand? Restore it from a copy, or begin anew with `kdpipe clean DIR --labels`"
        )
