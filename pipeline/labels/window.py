"""One sealed window in memory, for as long as batches come from it: its shards' columns as they are stored, and the order of its rows.

Soft labels stay encoded and are decoded some rows at a time, so that memory does not grow with the number of classes. Where the shards
of one window were written by different codecs, all are decoded and held so.

A column of lists of numbers, all of one length, is held as a matrix over the same memory: taking rows of it costs a copy of their
bytes, many times less than taking lists. Narrow columns are put into reading order once, and a batch has a piece of them: taken by the
batch, they would cost more than the wide ones.

N rows, K classes, D values of an embedding.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.codecs import Codec, DenseFp16, SparseLabels
from pipeline.labels.embedding import embeddings_of, joined_embeddings
from pipeline.labels.shard import Shard

NUMBERS = ("row", "entropy", "margin", "disagreement", "agreement")
WORDS = ("sample_id", "label")
INPUT, LABELS = "input", "log_probs"
COLUMNS = (*NUMBERS, *WORDS, INPUT)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a window, in reading order."""

    numbers: Mapping[str, NDArray[Any]]
    """NUMBERS, which may not be written to; NaN where there is none."""
    words: Mapping[str, pa.Array]
    """WORDS."""
    inputs: pa.Array
    inputs_BF: NDArray[Any] | None
    """The same memory as rows of F numbers; None where they are texts, or lists of lengths that differ."""
    log_probs_BK: NDArray[np.float32]
    recorded: SparseLabels | None
    """None where the codec keeps every class."""
    embedding_BD: NDArray[np.float16] | None

    def piece(self, start: int, stop: int) -> "Rows":
        """[start, stop) of these, over the same memory."""
        cut = slice(start, stop)
        return Rows(
            numbers={name: column[cut] for name, column in self.numbers.items()},
            words={name: column[cut] for name, column in self.words.items()},
            inputs=self.inputs[cut],
            inputs_BF=None if self.inputs_BF is None else self.inputs_BF[cut],
            log_probs_BK=self.log_probs_BK[cut],
            recorded=None if self.recorded is None else self.recorded.piece(cut),
            embedding_BD=None if self.embedding_BD is None else self.embedding_BD[cut],
        )


@dataclass(frozen=True)
class Matrix:
    """A column of lists of one length: its Arrow type, and its rows over the memory of the column."""

    kind: pa.DataType
    rows: NDArray[Any]

    def taken(self, places: NDArray[np.int64]) -> tuple[pa.Array, NDArray[Any]]:
        """Those rows as the column would have them, and as a matrix over the same memory."""
        rows = self.rows.take(places, axis=0)
        values = pa.array(rows.reshape(-1))
        if pa.types.is_fixed_size_list(self.kind):
            return pa.FixedSizeListArray.from_arrays(values, type=self.kind), rows
        return pa.ListArray.from_arrays(_offsets(*rows.shape), values, type=self.kind), rows


@dataclass(frozen=True, kw_only=True)
class Window:
    numbers: Mapping[str, NDArray[Any]]
    words: Mapping[str, pa.Array]
    """Both in reading order, what follows in the order of the log."""
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
        inputs = self.inputs.rows if isinstance(self.inputs, Matrix) else self.inputs
        return 4 * self.classes + inputs.nbytes // max(len(inputs), 1)

    def rows(self, start: int, stop: int) -> Rows:
        """Those at the places [start, stop) of the window's order."""
        places = self.shuffled_N[start:stop]
        inputs, inputs_BF = _taken(self.inputs, places)
        log_probs_BK, recorded = self._said(places)
        return Rows(
            numbers={name: column[start:stop] for name, column in self.numbers.items()},
            words={name: column[start:stop] for name, column in self.words.items()},
            inputs=inputs,
            inputs_BF=inputs_BF,
            log_probs_BK=log_probs_BK,
            recorded=recorded,
            embedding_BD=None if self.embedding_ND is None else self.embedding_ND[places],
        )

    def _said(self, places: NDArray[np.int64]) -> tuple[NDArray[np.float32], SparseLabels | None]:
        if isinstance(self.labels, np.ndarray):
            return self.labels.take(places, axis=0), None
        labels, _ = _taken(self.labels, places)
        recorded = None if isinstance(self.codec, DenseFp16) else self.codec.sparse(labels, self.classes)
        return self.codec.decode(labels, self.classes), recorded


def window_of(shards: Sequence[Shard], shuffled_N: NDArray[np.int64]) -> Window:
    """The window that these checked shards are, in log order, with its rows permuted so. Raises MixedEmbeddingsError."""
    first = shards[0]
    alike = all(shard.codec == first.codec for shard in shards)
    columns = [*COLUMNS, LABELS] if alike else COLUMNS
    table = pa.concat_tables([shard.table.select(columns) for shard in shards]).combine_chunks()
    return Window(
        numbers={name: _in_order(table[name], shuffled_N) for name in NUMBERS},
        words={name: table[name].combine_chunks().take(pa.array(shuffled_N)) for name in WORDS},
        inputs=_wide(table[INPUT]),
        labels=_wide(table[LABELS]) if alike else np.concatenate([shard.log_probs() for shard in shards]),
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


def _in_order(column: pa.ChunkedArray, shuffled_N: NDArray[np.int64]) -> NDArray[Any]:
    taken_N: NDArray[Any] = column.to_numpy().take(shuffled_N)
    taken_N.setflags(write=False)  # batches are pieces of it
    return taken_N


def _wide(column: pa.ChunkedArray) -> pa.Array | Matrix:
    rows = matrix_of(column)
    return column.combine_chunks() if rows is None else Matrix(column.type, rows)


def _taken(column: pa.Array | Matrix, places: NDArray[np.int64]) -> tuple[pa.Array, NDArray[Any] | None]:
    return column.taken(places) if isinstance(column, Matrix) else (column.take(pa.array(places)), None)


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
    matrices = [part.inputs_BF for part in parts if part.inputs_BF is not None]
    alike = len(matrices) == len(parts) and len({matrix.shape[1] for matrix in matrices}) == 1
    return Rows(
        numbers={name: np.concatenate([part.numbers[name] for part in parts]) for name in NUMBERS},
        words={name: pa.concat_arrays([part.words[name] for part in parts]) for name in WORDS},
        inputs=pa.concat_arrays([part.inputs for part in parts]),
        inputs_BF=np.concatenate(matrices) if alike else None,
        log_probs_BK=np.concatenate([part.log_probs_BK for part in parts]),
        recorded=_joined_labels(parts),
        embedding_BD=joined_embeddings([(part.embedding_BD, len(part.inputs)) for part in parts]),
    )


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
