"""From what a file holds to a batch in the source's schema: one place that says what a good row is.

`from_values` takes Python values (JSONL, CSV) row by row; `from_columns` takes Arrow columns (Parquet, Arrow) and looks at
single rows only where a column as a whole does not fit. Neither raises because of a row.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import SourceSection
from pipeline.sources.source import SCHEMAS, ColumnTypeError

MAX_ROW_BYTES = 16 * 2**20
"""A longer line or record is a problem row."""

Record = Mapping[str, Any] | str
"""One row as read: its values by column, or the problem why there are none."""
Rows = Sequence[int] | NDArray[np.int64]
"""Numbers of rows in a part."""


def carried(section: SourceSection) -> tuple[str, ...]:
    """Further columns of names that `options.carry` asks for: they follow the four of every source, as strings."""
    return tuple(section.options.get("carry", ()))


def schema_of(section: SourceSection) -> Any:
    """What `read` returns for that section."""
    schema = SCHEMAS[section.kind]
    for name in carried(section):
        schema = schema.append(pa.field(name, pa.string()))
    return schema


def row_ids(identity: str, rows: Rows) -> Any:
    """`identity:row` for each row, as an Arrow array of strings: the sample ids where the user has no column for them."""
    numbers = pa.array(np.asarray(rows, dtype=np.int64)).cast(pa.string())
    return pc.binary_join_element_wise(pa.scalar(identity), numbers, pa.scalar(":"))


def from_values(records: Sequence[Record], identity: str, rows: Rows, section: SourceSection) -> Any:
    """A batch from parsed rows of that part. Whatever does not fit becomes null with a reason in `problem`."""
    read_input = _text if section.kind == "text" else _floats
    schema = schema_of(section)
    columns: list[list[Any]] = [[] for _ in schema]
    for record, default_id in zip(records, row_ids(identity, rows).to_pylist(), strict=True):
        for column, value in zip(columns, _row(record, default_id, section, read_input), strict=True):
            column.append(value)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def from_columns(columns: Mapping[str, Any], identity: str, rows: Rows, section: SourceSection, *, where: str) -> Any:
    """A batch from Arrow columns of those rows, whole columns at a time where all are good. Raises ColumnTypeError for a hopeless type."""
    schema = schema_of(section)
    _check_type(columns[section.input].type, section, where)
    fast = _whole(columns, identity, rows, section)
    if fast is not None:
        return pa.RecordBatch.from_arrays(fast, schema=schema)
    values = {name: _cells(column) for name, column in columns.items()}
    records = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return from_values(records, identity, rows, section)


def _whole(columns: Mapping[str, Any], identity: str, rows: Rows, section: SourceSection) -> list[Any] | None:
    """The schema's columns, whole, or None where any row needs a closer look."""
    inputs_type = SCHEMAS[section.kind].field("input").type
    try:
        inputs = columns[section.input].cast(inputs_type)
        ids = columns[section.id].cast(pa.string()) if section.id else row_ids(identity, rows)
        labels = columns[section.label].cast(pa.string()) if section.label else pa.nulls(len(rows), pa.string())
        extra = [columns[name].cast(pa.string()) for name in carried(section)]
        for array in (inputs, ids, labels, *extra):
            array.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if inputs.null_count or ids.null_count:
        return None
    if section.kind == "floats" and not _all_finite(inputs):
        return None
    return [ids, inputs, labels, pa.nulls(len(rows), pa.string()), *extra]


def _all_finite(inputs: Any) -> bool:
    values = inputs.flatten()
    lengths = pc.list_value_length(inputs)
    return bool(
        values.null_count == 0
        and np.isfinite(values.to_numpy(zero_copy_only=False)).all()
        and (len(lengths) == 0 or pc.min(lengths).as_py() > 0)
    )


def _check_type(found: Any, section: SourceSection, where: str) -> None:
    types = pa.types
    found = found.value_type if types.is_dictionary(found) else found
    text = types.is_string(found) or types.is_large_string(found) or types.is_binary(found) or types.is_large_binary(found)
    is_list = types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found)
    floats = is_list and (types.is_floating(found.value_type) or types.is_integer(found.value_type))
    if not (types.is_null(found) or (text if section.kind == "text" else floats)):
        raise ColumnTypeError(where, section.input, str(found), "text" if section.kind == "text" else "a list of numbers")


def _cells(column: Any) -> list[Any]:
    """Python values; text comes as bytes, so that a cell that is not UTF-8 spoils only itself."""
    types = pa.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_string(column.type) or types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    cells: list[Any] = column.to_pylist()
    return cells


def _row(record: Record, default_id: str, section: SourceSection, read_input: Any) -> tuple[Any, ...]:
    nothing = (None,) * len(carried(section))
    if isinstance(record, str):
        return default_id, None, None, record, *nothing
    sample_id, label = default_id, None
    try:
        if section.id is not None:
            sample_id = _name(record.get(section.id), section.id) or default_id
            if sample_id == default_id:
                raise ValueError(f"no {section.id!r}")
        if section.input not in record or record[section.input] is None:
            raise ValueError(f"no {section.input!r}")
        value = read_input(record[section.input], section.input)
        label = _name(record.get(section.label), section.label) if section.label else None
        extra = tuple(_name(record.get(name), name) for name in carried(section))
    except ValueError as error:
        return sample_id, None, None, str(error), *nothing
    return sample_id, value, label, None, *extra


def _name(value: Any, column: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, str | bytes):
        return _text(value, column)
    if isinstance(value, int | float):
        return str(value)
    raise ValueError(f"{column!r} is a {type(value).__name__}; expected a name")


def _text(value: Any, column: str) -> str:
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise ValueError(f"{column!r} is a {type(value).__name__}; expected text")
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"{column!r} is not UTF-8: {error.reason} at {error.start}") from error
    return text


def _floats(value: Any, column: str) -> list[float]:
    if isinstance(value, str | bytes):
        value = _written_floats(value, column)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{column!r} is {'empty' if value == [] else f'a {type(value).__name__}'}; expected a list of numbers")
    floats = []
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{column!r} holds a {type(number).__name__}; expected numbers")
        if not (-3.4e38 < number < 3.4e38) or not math.isfinite(number):
            raise ValueError(f"{column!r} holds {float('nan') if number != number else 'a number beyond float32'}; expected finite numbers")
        floats.append(float(number))
    return floats


def _written_floats(value: str | bytes, column: str) -> Any:
    """Numbers written into one CSV field, as a JSON list."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{column!r} is not a JSON list of numbers") from error
