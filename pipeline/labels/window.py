"""One sealed window in memory, for as long as batches come from it: its shards' columns as they are stored, and the order of its rows.

Soft labels stay encoded and are decoded some rows at a time, so that memory does not grow with the number of classes. Where the shards
of one window were written by different codecs, all are decoded and held so.

A column of lists of numbers, all of one length, is held as a matrix over the same memory: taking rows of it costs a copy of their
bytes, many times less than taking lists. Narrow columns are put into reading order as a whole, and a batch has a piece of them: taken by
the batch, they would cost more than the wide ones. That is done once somebody asks for one: most loops look at few of them.

N rows, K classes, D values of an embedding.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.arrays import rows_taken
from pipeline.labels.codecs import Codec, DenseFp16, SparseLabels
from pipeline.labels.embedding import embeddings_of, joined_embeddings
from pipeline.labels.shard import Shard

NUMBERS = ("row", "entropy", "margin", "disagreement", "agreement")
WORDS = ("sample_id", "label")
INPUT, LABELS = "input", "log_probs"
COLUMNS = (*NUMBERS, *WORDS, INPUT)


class Narrow:
    """NUMBERS and WORDS of some rows, in reading order, by name: arrays that may not be written to, NaN where there is no number."""

    def __init__(self, columns: Mapping[str, Any], start: int, stop: int) -> None:
        """Of [start, stop) of those columns."""
        self._columns, self._start, self._stop = columns, start, stop

    def __getitem__(self, name: str) -> Any:
        return self._columns[name][self._start : self._stop]

    def piece(self, start: int, stop: int) -> "Narrow":
        """[start, stop) of these."""
        return Narrow(self._columns, self._start + start, self._start + stop)


class _InOrder(dict[str, Any]):
    """Columns of a table with their rows permuted, each from when it is first asked for. Two threads that ask at once do it twice."""

    def __init__(self, table: pa.Table, shuffled_N: NDArray[np.int64]) -> None:
        super().__init__()
        self._table, self._shuffled_N = table, shuffled_N

    def __missing__(self, name: str) -> Any:
        if name in WORDS:
            taken = self._table[name].combine_chunks().take(pa.array(self._shuffled_N))
        else:
            taken = self._table[name].to_numpy().take(self._shuffled_N)
            taken.setflags(write=False)  # batches are pieces of it
        self[name] = taken
        return taken


class _Joined(dict[str, Any]):
    """Columns of several parts, one part after the other, each from when it is first asked for."""

    def __init__(self, parts: Sequence[Narrow]) -> None:
        super().__init__()
        self._parts = parts

    def __missing__(self, name: str) -> Any:
        columns = [part[name] for part in self._parts]
        self[name] = pa.concat_arrays(columns) if name in WORDS else np.concatenate(columns)
        return self[name]


@dataclass(frozen=True)
class Matrix:
    """A column of lists of one length: its Arrow type, and its rows over the memory of the column."""

    kind: pa.DataType
    rows: NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> "Matrix":
        return Matrix(self.kind, self.rows[rows])

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def taken(self, places: NDArray[np.int64]) -> "Matrix":
        """A copy of those rows."""
        return Matrix(self.kind, rows_taken(self.rows, places))

    def column(self) -> pa.Array:
        """As Arrow has it, over the same memory."""
        values = pa.array(self.rows.reshape(-1))
        if pa.types.is_fixed_size_list(self.kind):
            return pa.FixedSizeListArray.from_arrays(values, type=self.kind)
        return pa.ListArray.from_arrays(_offsets(*self.rows.shape), values, type=self.kind)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a window, in reading order."""

    narrow: Narrow
    inputs: pa.Array | Matrix
    log_probs_BK: NDArray[np.float32]
    recorded: SparseLabels | None
    """None where the codec keeps every class."""
    embedding_BD: NDArray[np.float16] | None

    def piece(self, start: int, stop: int) -> "Rows":
        """[start, stop) of these, over the same memory."""
        cut = slice(start, stop)
        return Rows(
            narrow=self.narrow.piece(start, stop),
            inputs=self.inputs[cut],
            log_probs_BK=self.log_probs_BK[cut],
            recorded=None if self.recorded is None else self.recorded.piece(cut),
            embedding_BD=None if self.embedding_BD is None else self.embedding_BD[cut],
        )


@dataclass(frozen=True, kw_only=True)
class Window:
    narrow: Narrow
    """In reading order, what follows in the order of the log."""
    inputs: pa.Array | Matrix
    labels: pa.Array | Matrix | NDArray[np.float32]
    """As stored, or decoded."""
    codec: Codec
    classes: int
    embedding_ND: NDArray[np.float16] | None
    shuffled_N: NDArray[np.int64]
    teachers: frozenset[str]
    codecs: frozenset[str]

    @property
    def row_bytes(self) -> int:
        """About what a decoded row takes."""
        return 4 * self.classes + self.inputs.nbytes // max(len(self.inputs), 1)

    def rows(self, start: int, stop: int) -> Rows:
        """Those at the places [start, stop) of the window's order."""
        places = self.shuffled_N[start:stop]
        log_probs_BK, recorded = self._said(places)
        return Rows(
            narrow=self.narrow.piece(start, stop),
            inputs=_taken(self.inputs, places),
            log_probs_BK=log_probs_BK,
            recorded=recorded,
            embedding_BD=None if self.embedding_ND is None else self.embedding_ND[places],
        )

    def _said(self, places: NDArray[np.int64]) -> tuple[NDArray[np.float32], SparseLabels | None]:
        if isinstance(self.labels, np.ndarray):
            return rows_taken(self.labels, places), None
        labels = column_of(_taken(self.labels, places))
        recorded = None if isinstance(self.codec, DenseFp16) else self.codec.sparse(labels, self.classes)
        return self.codec.decode(labels, self.classes), recorded


def window_of(shards: Sequence[Shard], shuffled_N: NDArray[np.int64]) -> Window:
    """The window that these checked shards are, in log order, with its rows permuted so. Raises MixedEmbeddingsError."""
    first = shards[0]
    alike = all(shard.codec == first.codec for shard in shards)
    columns = [*COLUMNS, LABELS] if alike else COLUMNS
    table = pa.concat_tables([shard.table.select(columns) for shard in shards]).combine_chunks()
    return Window(
        narrow=Narrow(_InOrder(table, shuffled_N), 0, len(table)),
        inputs=wide(table[INPUT]),
        labels=wide(table[LABELS]) if alike else np.concatenate([shard.log_probs() for shard in shards]),
        codec=first.codec,
        classes=len(first.classes),
        embedding_ND=joined_embeddings([(embeddings_of(shard.table), len(shard.table)) for shard in shards]),
        shuffled_N=shuffled_N,
        teachers=frozenset(shard.teacher for shard in shards),
        codecs=frozenset(shard.codec.name for shard in shards),
    )


@functools.lru_cache(maxsize=64)
def _offsets(rows: int, width: int) -> pa.Array:
    return pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(width))


def wide(column: pa.ChunkedArray) -> pa.Array | Matrix:
    """The column as a matrix, if it is one."""
    rows = matrix_of(column)
    return column.combine_chunks() if rows is None else Matrix(column.type, rows)


def column_of(wide: pa.Array | Matrix) -> pa.Array:
    """As Arrow has it."""
    return wide.column() if isinstance(wide, Matrix) else wide


def _taken(column: pa.Array | Matrix, places: NDArray[np.int64]) -> pa.Array | Matrix:
    return column.taken(places) if isinstance(column, Matrix) else column.take(pa.array(places))


def matrix_of(column: pa.ChunkedArray) -> NDArray[np.generic] | None:
    """The column as rows of one length over its own memory; None where it is no list of numbers, lacks some, or lengths differ."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) or not pa.types.is_primitive(kind.value_type):
        return None
    if column.num_chunks != 1 or not len(column) or column.null_count or pa.types.is_boolean(kind.value_type):
        return None
    lists = column.chunk(0)
    if pa.types.is_fixed_size_list(kind):
        first, width = lists.offset * kind.list_size, kind.list_size
    else:
        offsets = lists.offsets.to_numpy()
        first, width = int(offsets[0]), int(offsets[1] - offsets[0])
        if np.any(np.diff(offsets) != width):
            return None
    values = lists.values.slice(first, len(lists) * width)
    if not width or values.null_count:
        return None
    return np.asarray(values.to_numpy(zero_copy_only=True).reshape(len(lists), width))


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after the other. Those of one part are not copied: few batches lie in two windows."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        narrow=Narrow(_Joined([part.narrow for part in parts]), 0, sum(len(part.log_probs_BK) for part in parts)),
        inputs=_joined_inputs([part.inputs for part in parts]),
        log_probs_BK=np.concatenate([part.log_probs_BK for part in parts]),
        recorded=_joined_labels(parts),
        embedding_BD=joined_embeddings([(part.embedding_BD, len(part.inputs)) for part in parts]),
    )


def _joined_inputs(parts: Sequence[pa.Array | Matrix]) -> pa.Array | Matrix:
    matrices = [part for part in parts if isinstance(part, Matrix)]
    if len(matrices) == len(parts) and len({matrix.rows.shape[1] for matrix in matrices}) == 1:
        return Matrix(matrices[0].kind, np.concatenate([matrix.rows for matrix in matrices]))
    return pa.concat_arrays([column_of(part) for part in parts])


def _joined_labels(parts: Sequence[Rows]) -> SparseLabels | None:
    """What was recorded of all rows; None if no part left a class out. A part without records has every class."""
    if all(part.recorded is None for part in parts):
        return None
    whole = [part.recorded or _every_class(part.log_probs_BK) for part in parts]
    width = max(labels.ids_NR.shape[1] for labels in whole)
    room = [((0, 0), (0, width - labels.ids_NR.shape[1])) for labels in whole]
    return SparseLabels(
        ids_NR=np.concatenate([np.pad(labels.ids_NR, pad) for labels, pad in zip(whole, room, strict=True)]),
        log_probs_NR=np.concatenate(
            [np.pad(labels.log_probs_NR, pad, constant_values=-np.inf) for labels, pad in zip(whole, room, strict=True)]
        ),
        tail_N=np.concatenate([labels.tail_N for labels in whole]),
    )


def _every_class(log_probs_BK: NDArray[np.float32]) -> SparseLabels:
    rows, classes = log_probs_BK.shape
    ids_BK = np.broadcast_to(np.arange(classes), (rows, classes))
    return SparseLabels(ids_NR=ids_BK, log_probs_NR=log_probs_BK, tail_N=np.full(rows, -np.inf, dtype=np.float32))
