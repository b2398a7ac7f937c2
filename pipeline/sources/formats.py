"""Readers of single files: how many rows there are, which columns, and any rows in any order.

One class a format, one line in `FORMATS`. A reader holds no more than offsets or one decoded piece of its file; it is
given a file that does not change (the caller checks identities). Damage of the whole file is PartUnreadableError.
"""

import csv
import json
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import SourceSection
from pipeline.sources.rows import MAX_ROW_BYTES, Record, Rows, carried, from_columns, from_values
from pipeline.sources.source import ColumnMissingError, PartUnreadableError

READ_BYTES, BATCH_ROWS = 2**18, 1024
"""Of a Parquet file at a time: a row group is decoded through buffers of this size."""
LOOK_AHEAD_ROWS = 100
"""Rows of a JSONL file that are looked at to tell a missing column from a bad row."""
ARROW_MAGIC = b"ARROW1"
HELD_BYTES = 2**30
"""Of decoded pieces, over all files that a process reads. Two such processes fit on a machine of 4 GiB."""


class Format(Protocol):
    """One open file."""

    rows: int
    held_bytes: int
    """As `Part.held_bytes`."""

    def ends_row(self, offset: int) -> bool:
        """Whether the bytes before `offset` are whole rows, which more may be appended to. Never so where a file is written as a whole."""
        ...

    def take(self, rows_N: NDArray[np.int64], identity: str) -> Any:
        """Those rows as a batch of the source's schema; where the user has no column of sample ids, they are `identity:row`."""
        ...


class DecodedPieces:
    """Pieces of any files, the latest ones kept. Files may be read by several threads at once."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> Any | None:
        with self._lock:
            table = self._kept.pop(key, None)
            if table is not None:
                self._kept[key] = table  # the newest is last
            return table

    def keep(self, key: tuple[int, int], table: Any) -> None:
        """Let the oldest go until this one fits; it is kept even if it is too large alone."""
        with self._lock:
            self._forget(key)
            while self._kept and self._bytes + table.nbytes > self._most_bytes:
                self._forget(next(iter(self._kept)))
            self._kept[key] = table
            self._bytes += table.nbytes

    def drop(self, file: int) -> None:
        """The file is closed."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == file]:
                self._forget(key)

    def _forget(self, key: tuple[int, int]) -> None:
        table = self._kept.pop(key, None)
        self._bytes -= table.nbytes if table is not None else 0


_DECODED = DecodedPieces(HELD_BYTES)
_FILES = count()


class Appendable:
    """A file of rows one after the other, by the byte spans of each."""

    held_bytes = 0
    _spans: Any

    def ends_row(self, offset: int) -> bool:
        return bool(np.isin(offset, self._spans))


class Lines(Appendable):
    """JSON, one object a line. Blank lines are no rows."""

    def __init__(self, path: Path, section: SourceSection) -> None:
        self._path, self._section = path, section
        with path.open("rb") as file:
            self._spans = np.array(list(_line_spans(file)), dtype=np.int64).reshape(-1, 2)
        self.rows = len(self._spans)
        first = [record for record in self._records(range(min(self.rows, LOOK_AHEAD_ROWS))) if not isinstance(record, str)]
        if first:
            _check_columns(path, section, sorted({key for record in first for key in record}))

    def take(self, rows_N: NDArray[np.int64], identity: str) -> Any:
        return from_values(list(self._records(rows_N)), identity, rows_N, self._section)

    def _records(self, rows: Rows) -> Iterator[Record]:
        for data in _spans_of(self._path, self._spans, rows):
            yield _json_object(data) if isinstance(data, bytes) else data


class Csv(Appendable):
    """Comma-separated values with a header line, UTF-8, quoted as in RFC 4180."""

    def __init__(self, path: Path, section: SourceSection) -> None:
        self._path, self._section = path, section
        with path.open("rb") as file:
            spans = list(_csv_spans(file))
        header = next(_spans_of(path, np.array(spans[:1], dtype=np.int64), [0]), b"") if spans else b""
        fields = _csv_fields(header.removeprefix(b"\xef\xbb\xbf")) if isinstance(header, bytes) else header
        if isinstance(fields, str):
            raise PartUnreadableError(str(path), f"the header line does not parse: {fields}")
        self._header = fields
        self._spans = np.array(spans[1:], dtype=np.int64).reshape(-1, 2)
        self.rows = len(self._spans)
        _check_columns(path, section, self._header)

    def take(self, rows_N: NDArray[np.int64], identity: str) -> Any:
        records = [self._record(data) for data in _spans_of(self._path, self._spans, rows_N)]
        return from_values(records, identity, rows_N, self._section)

    def _record(self, data: bytes | str) -> Record:
        fields = _csv_fields(data) if isinstance(data, bytes) else data
        if isinstance(fields, str):
            return fields
        if len(fields) != len(self._header):
            return f"{len(fields)} fields; the header has {len(self._header)}"
        return {name: field or None if name != self._section.input else field for name, field in zip(self._header, fields, strict=True)}


class Pieces(ABC):
    """Parquet row groups or Arrow record batches: decoded a piece at a time, the latest ones kept.

    Labels that are numbers become names where the file says which: Hugging Face's `datasets` writes that into the schema (ClassLabel).
    """

    held_bytes = 0

    def ends_row(self, offset: int) -> bool:
        return False

    def __init__(self, path: Path, section: SourceSection, *, schema: Any, sizes: Sequence[int]) -> None:
        _check_columns(path, section, schema.names)
        self._label_names = _class_names(schema, section.label)
        self._path, self._section = path, section
        self._wanted = list(dict.fromkeys(name for name in (section.input, section.id, section.label, *carried(section)) if name))
        self._ends = np.cumsum([0, *sizes])
        self.rows = int(self._ends[-1])
        self._file_number = next(_FILES)
        weakref.finalize(self, _DECODED.drop, self._file_number)

    @abstractmethod
    def _decode(self, piece: int) -> Any:
        """Piece number `piece`, as a table."""

    def take(self, rows_N: NDArray[np.int64], identity: str) -> Any:
        pieces = np.searchsorted(self._ends, rows_N, side="right") - 1
        order = np.argsort(pieces, kind="stable")
        taken = []
        for piece in np.unique(pieces):
            inside = rows_N[order][pieces[order] == piece] - self._ends[piece]
            taken.append(self._piece(int(piece)).take(pa.array(inside)))
        if not taken:
            return from_values([], identity, rows_N, self._section)
        table = pa.concat_tables(taken)
        if (pieces[1:] < pieces[:-1]).any():  # rows that ascend, as a unit's do, are in order already
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            table = table.take(pa.array(back))
        columns = {name: _one_chunk(table.column(name)) for name in self._wanted}
        return from_columns(columns, identity, rows_N, self._section, where=str(self._path))

    def _piece(self, piece: int) -> Any:
        key = self._file_number, piece
        table = _DECODED.get(key)
        if table is None:
            try:
                table = self._named(self._decode(piece).select(self._wanted))
            except (pa.ArrowException, OSError) as error:
                raise PartUnreadableError(str(self._path), f"piece {piece} does not decode ({_short(error)})") from error
            _DECODED.keep(key, table)
        return table

    def _named(self, table: Any) -> Any:
        """The table with its labels by name."""
        if self._label_names is None or not pa.types.is_integer(table.column(self._section.label).type):
            return table
        names, numbers = pa.array(self._label_names, pa.string()), table.column(self._section.label).cast(pa.int64())
        known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names)))  # datasets has -1 for no label
        labels = pa.chunked_array([names]).take(pc.if_else(known, numbers, pa.scalar(None, pa.int64())))
        return table.set_column(table.schema.get_field_index(self._section.label), self._section.label, labels)


class Parquet(Pieces):
    def __init__(self, path: Path, section: SourceSection) -> None:
        try:
            self._file = pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise PartUnreadableError(str(path), f"not Parquet ({_short(error)})") from error
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        super().__init__(path, section, schema=self._file.schema_arrow, sizes=sizes)
        self.held_bytes = sum(
            column.total_uncompressed_size
            for group in range(metadata.num_row_groups)
            for place in range(metadata.num_columns)
            if (column := metadata.row_group(group).column(place)).path_in_schema.partition(".")[0] in self._wanted
        )

    def _decode(self, piece: int) -> Any:
        # A row group read at once costs twice its memory, all of it new: some pages at a time go through the same buffers.
        batches = list(self._file.iter_batches(BATCH_ROWS, row_groups=[piece], columns=self._wanted))
        schema = batches[0].schema if batches else self._file.schema_arrow
        return pa.Table.from_batches(batches, schema).combine_chunks()


class Arrow(Pieces):
    """Arrow IPC, memory-mapped: the file format (also called Feather V2), or the stream that `datasets` writes."""

    def __init__(self, path: Path, section: SourceSection) -> None:
        try:
            mapped = pa.memory_map(str(path))
            if mapped.read(len(ARROW_MAGIC)) == ARROW_MAGIC:
                file = pa.ipc.open_file(mapped)
                schema, self._batches = file.schema, [file.get_batch(piece) for piece in range(file.num_record_batches)]
            else:
                mapped.seek(0)
                stream = pa.ipc.open_stream(mapped)
                schema, self._batches = stream.schema, list(stream)
        except (pa.ArrowException, OSError) as error:
            raise PartUnreadableError(str(path), f"not an Arrow IPC file ({_short(error)})") from error
        super().__init__(path, section, schema=schema, sizes=[batch.num_rows for batch in self._batches])

    def _decode(self, piece: int) -> Any:
        return pa.Table.from_batches([self._batches[piece]])


FORMATS: Mapping[str, Callable[[Path, SourceSection], Format]] = {
    ".jsonl": Lines,
    ".csv": Csv,
    ".parquet": Parquet,
    ".arrow": Arrow,
    ".feather": Arrow,
}
"""Readers by the ending of the file's name."""


def _class_names(schema: Any, label: str | None) -> list[str] | None:
    """Names of the label's numbers, as `datasets` keeps them in a schema's metadata."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in described["names"]] if described["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None


def _check_columns(path: Path, section: SourceSection, there: Sequence[str]) -> None:
    for column in (section.input, section.id, section.label, *carried(section)):
        if column is not None and column not in there:
            raise ColumnMissingError(str(path), column, there)


def _line_spans(file: Any) -> Iterator[tuple[int, int]]:
    start = offset = 0
    blank = True
    while piece := file.readline(2**20):
        blank = blank and not piece.strip()
        offset += len(piece)
        if piece.endswith(b"\n"):
            if not blank:
                yield start, offset
            start, blank = offset, True
    if not blank:
        yield start, offset


def _csv_spans(file: Any) -> Iterator[tuple[int, int]]:
    """Byte ranges of records. Latin-1 keeps every byte, and commas, quotes and line ends look the same in it as in UTF-8."""
    csv.field_size_limit(MAX_ROW_BYTES)
    offset = 0

    def lines() -> Iterator[str]:
        nonlocal offset
        while line := file.readline(MAX_ROW_BYTES):
            offset += len(line)
            yield line.decode("latin-1")

    records, start = csv.reader(lines()), 0
    while True:
        try:
            fields = next(records)
        except StopIteration:
            return
        except csv.Error:
            fields = ["a record that does not parse"]
        if fields:
            yield start, offset
        start = offset


def _spans_of(path: Path, spans: Any, rows: Rows) -> Iterator[bytes | str]:
    """Bytes of the spans asked for, or the problem of one that is too long."""
    with path.open("rb") as file:
        for start, end in spans[np.asarray(rows, dtype=np.int64)].tolist():
            if end - start > MAX_ROW_BYTES:
                yield f"{end - start} bytes; expected at most {MAX_ROW_BYTES}"
                continue
            file.seek(start)
            yield file.read(end - start)


def _json_object(data: bytes) -> Record:
    try:
        found = json.loads(data)
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {_short(error)}"
    return found if isinstance(found, dict) else f"a JSON {type(found).__name__}; expected an object"


def _csv_fields(data: bytes) -> list[str] | str:
    csv.field_size_limit(MAX_ROW_BYTES)
    try:
        text = data.decode()
        return next(csv.reader(_physical_lines(text), strict=True), [])
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    except csv.Error as error:
        return f"not CSV: {_short(error)}"


def _physical_lines(text: str) -> Iterator[str]:
    """Lines that end in \\n only: `splitlines` would also split at characters that mail and chat are full of."""
    position = 0
    while position < len(text):
        end = text.find("\n", position) + 1 or len(text)
        yield text[position:end]
        position = end


def _one_chunk(column: Any) -> Any:
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _short(error: BaseException) -> str:
    return " ".join(islice(str(error).split(), 24))[:160]
