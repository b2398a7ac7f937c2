"""The `Source` protocol, the shape of the batches that every source returns, and the errors of a user's data.

A batch has one row per row asked for, in that order. A row that does not parse is null in `input` and says why in
`problem`; it is never an exception and never missing. A whole part that cannot be used is an exception.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from pipeline.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file, or one piece of a user's source. Changed content is another part."""

    identity: str
    """Name and content hash: stable across runs and machines."""
    name: str
    rows: int
    held_bytes: int = 0
    """Memory that reading its rows in any order takes: 0 where single rows can be had from where they lie."""


class Source(Protocol):
    """Where samples come from."""

    def parts(self) -> Sequence[Part]:
        """What is there now, in a stable order. May grow between calls."""
        ...

    def read(self, identity: str, rows: Sequence[int]) -> pa.RecordBatch:
        """Those rows of that part, in that order, in the source's schema (`SCHEMAS`)."""
        ...


@runtime_checkable
class GrowingSource(Protocol):
    """A source whose parts may be appended to."""

    def grown_from(self, identity: str) -> str | None:
        """The part there now that begins with all rows of that part, which is gone as it was; None if none does."""
        ...


@runtime_checkable
class BatchSource(Protocol):
    """A source of many small things: a part is what came together, and only who planned it knows what did."""

    def parts_beside(self, kept: Collection[str]) -> Sequence[Part]:
        """What is there now: of the parts `kept` those of which anything is left, and in parts of its own what is in none of them."""
        ...


def _schema(inputs: Any) -> Any:
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("input", inputs),
            pa.field("label", pa.string()),
            pa.field("problem", pa.string()),
        ]
    )


SCHEMAS: Mapping[str, Any] = {"text": _schema(pa.string()), "floats": _schema(pa.list_(pa.float32()))}
"""Schema of what `read` returns, by the kind of the source."""


class SourceMissingError(DataError):
    """A path of a source that names nothing. Says what is there instead."""

    def __init__(self, path: str, there: Sequence[str]) -> None:
        super().__init__(path, tuple(there))
        self.path, self.there = path, tuple(there)

    def __str__(self) -> str:
        return f"{self.path}: no such file; expected one of those there: {_listed(self.there)}; correct `path` in the run file"


class FormatUnknownError(DataError):
    """A file whose ending says nothing about how to read it."""

    def __init__(self, path: str, known: Sequence[str]) -> None:
        super().__init__(path, tuple(known))
        self.path, self.known = path, tuple(known)

    def __str__(self) -> str:
        return f"{self.path}: no reader for that ending; expected {', '.join(self.known)}; convert it or write a source of your own"


class ColumnMissingError(DataError):
    """A column that the run file names and the data lack."""

    def __init__(self, path: str, column: str, there: Sequence[str]) -> None:
        super().__init__(path, column, tuple(there))
        self.path, self.column, self.there = path, column, tuple(there)

    def __str__(self) -> str:
        there = _listed(self.there)
        return f"{self.path}: no column {self.column!r}; expected one of those there: {there}; correct `input`, `id` or `label`"


class ColumnTypeError(DataError):
    """A column that cannot be read as what the run file says it is."""

    def __init__(self, path: str, column: str, found: str, expected: str) -> None:
        super().__init__(path, column, found, expected)
        self.path, self.column, self.found, self.expected = path, column, found, expected

    def __str__(self) -> str:
        return f"{self.path}: column {self.column!r} is {self.found}; expected {self.expected}; correct `input` or `kind` in the run file"


class PartUnreadableError(DataError):
    """A file that is damaged as a whole."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; expected a whole, readable file; write it again or move it away"


class PartChangedError(DataError):
    """A part that was planned and is now gone or different."""

    def __init__(self, path: str, planned: str, found: str) -> None:
        super().__init__(path, planned, found)
        self.path, self.planned, self.found = path, planned, found

    def __str__(self) -> str:
        found = self.found or "gone"
        return f"{self.path}: now {found}; expected {self.planned}, as planned; put it back, or run again to plan what is there"


class UserSourceError(DataError):
    """The user's own source does not keep to the protocol."""

    def __init__(self, use: str, found: str, expected: str) -> None:
        super().__init__(use, found, expected)
        self.use, self.found, self.expected = use, found, expected

    def __str__(self) -> str:
        return f"source {self.use}: {self.found}; expected {self.expected}; see docs/run-file.md"


def _listed(names: Sequence[str], *, most: int = 12) -> str:
    shown = ", ".join(names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
