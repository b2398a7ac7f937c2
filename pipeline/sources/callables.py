"""A user's own source: `module:callable(**options)` that returns an object with `parts()` and `read(identity, rows)`,
and `grown_from(identity)` if its parts may be appended to.

What it returns is checked and brought into the schema of every source; what it does inside is its own business.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import SourceSection
from pipeline.references import import_reference
from pipeline.sources.rows import row_ids
from pipeline.sources.source import SCHEMAS, GrowingSource, Part, Source, UserSourceError


def open_callable(section: SourceSection, base: Path, *, shipped: Iterable[str] = ()) -> Source:
    """Open the user's source; `shipped` are names of ours, for the message.

    `options` are its keyword arguments, and `path`, where given, made absolute. Raises UserSourceError.
    """
    make = import_reference(section.use, base=base, shipped=shipped)
    options = dict(section.options)
    if section.path is not None:
        options["path"] = base / section.path
    made = make(**options)
    missing = [name for name in ("parts", "read") if not callable(getattr(made, name, None))]
    if missing:
        raise UserSourceError(section.use, f"a {type(made).__name__} without {' and '.join(missing)}", "an object with parts() and read()")
    return CheckedGrowingSource(made, section) if isinstance(made, GrowingSource) else CheckedSource(made, section)


class CheckedSource:
    """The user's source, with what it says checked."""

    def __init__(self, made: Any, section: SourceSection) -> None:
        self._made, self._section = made, section

    def parts(self) -> Sequence[Part]:
        parts = []
        for part in self._made.parts():
            identity, rows = getattr(part, "identity", None), getattr(part, "rows", None)
            if not isinstance(identity, str) or not identity or not isinstance(rows, int) or rows < 0:
                raise UserSourceError(self._section.use, f"a part {part!r:.120}", "identity (text) and rows (a count)")
            parts.append(Part(identity=identity, name=str(getattr(part, "name", identity)), rows=rows))
        if len({part.identity for part in parts}) != len(parts):
            raise UserSourceError(self._section.use, "two parts of one identity", "identities that differ")
        return parts

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        given = self._made.read(identity, rows)
        if isinstance(given, pa.Table):
            given = given.combine_chunks().to_batches()[0] if given.num_rows else pa.RecordBatch.from_pylist([], schema=given.schema)
        if not isinstance(given, pa.RecordBatch):
            raise UserSourceError(self._section.use, f"read() returned a {type(given).__name__}", "a pyarrow.RecordBatch")
        if given.num_rows != len(rows):
            raise UserSourceError(self._section.use, f"read() returned {given.num_rows} rows", f"the {len(rows)} asked for")
        schema = SCHEMAS[self._section.kind]
        columns = []
        for field in schema:
            if field.name in given.schema.names:
                columns.append(self._cast(given.column(field.name), field))
            elif field.name in ("label", "problem"):
                columns.append(pa.nulls(given.num_rows, field.type))
            elif field.name == "sample_id":
                columns.append(row_ids(identity, rows))
            else:
                raise UserSourceError(
                    self._section.use,
                    f"columns {', '.join(given.schema.names)}",
                    "`input`, and `sample_id`, `label`, `problem` if it has them",
                )
        return self._explain_nulls(pa.RecordBatch.from_arrays(columns, schema=schema))

    def _cast(self, column: Any, field: Any) -> Any:
        try:
            cast = column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserSourceError(self._section.use, f"{field.name} is {column.type}", str(field.type)) from error
        if not field.nullable and cast.null_count:
            raise UserSourceError(self._section.use, f"{cast.null_count} rows without {field.name}", "one for every row")
        return cast

    def _explain_nulls(self, batch: Any) -> Any:
        """A row without input that names no problem still gets one: nobody downstream has to guess."""
        problems = batch.column("problem").to_pylist()
        inputs_known = batch.column("input").is_valid().to_pylist()
        if all(known or problem is not None for known, problem in zip(inputs_known, problems, strict=True)):
            return batch
        filled = [problem if known or problem is not None else "no input" for known, problem in zip(inputs_known, problems, strict=True)]
        return batch.set_column(batch.schema.get_field_index("problem"), batch.schema.field("problem"), pa.array(filled, pa.string()))


class CheckedGrowingSource(CheckedSource):
    """A user's source that says which part goes on from another."""

    def grown_from(self, identity: str) -> str | None:
        """Raises UserSourceError for what is no identity."""
        now = self._made.grown_from(identity)
        if now is not None and (not isinstance(now, str) or not now):
            raise UserSourceError(self._section.use, f"grown_from() returned {now!r:.120}", "the identity of a part that is there, or None")
        return now
