"""One sealed window in memory, for as long as batches come from it: its shards' columns as they are stored, and the order of its rows.

Soft labels stay encoded: a batch decodes its own rows, so that memory does not grow with the number of classes. Where the shards of one
window were written by different codecs, all are decoded and held so.

A column of lists of numbers, all of one length, is held as a matrix over the same memory: taking rows of it costs a copy of their
bytes, many times less than taking lists.

N rows, K classes, D values of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.labels.codecs import DENSE_FP16, Codec, DenseFp16, SparseLabels
from pipeline.labels.embedding import embeddings_of, joined_embeddings
from pipeline.labels.shard import Shard

COLUMNS = ("row", "sample_id", "input", "entropy", "margin", "disagreement", "label", "agreement")
INPUT, LABELS = "input", "log_probs"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a window, in reading order."""

    table: pa.Table
    """COLUMNS but INPUT."""
    inputs: pa.Array
    log_probs_BK: NDArray[np.float32]
    recorded: SparseLabels | None
    """None where the codec keeps every class."""
    embedding_BD: NDArray[np.float16] | None


@dataclass(frozen=True, kw_only=True)
class Window:
    table: pa.Table
    """COLUMNS and LABELS, but those that are matrices."""
    matrices: Mapping[str, tuple[pa.DataType, NDArray[np.generic]]]
    """Their Arrow type and their rows, over the memory of the shards' columns."""
    codec: Codec
    classes: int
    embedding_ND: NDArray[np.float16] | None
    shuffled_N: NDArray[np.int64]
    teachers: frozenset[str]

    def rows(self, start: int, stop: int) -> Rows:
        """Those at the places [start, stop) of the window's order."""
        places = self.shuffled_N[start:stop]
        table = self.table.take(pa.array(places))
        inputs, labels = (self._taken(name, table, places) for name in (INPUT, LABELS))
        return Rows(
            table=table.drop_columns([name for name in (INPUT, LABELS) if name not in self.matrices]),
            inputs=inputs,
            log_probs_BK=self.codec.decode(labels, self.classes),
            recorded=None if isinstance(self.codec, DenseFp16) else self.codec.sparse(labels, self.classes),
            embedding_BD=None if self.embedding_ND is None else self.embedding_ND[places],
        )

    def _taken(self, name: str, table: pa.Table, places: NDArray[np.int64]) -> pa.Array:
        if name not in self.matrices:
            return table[name].combine_chunks()
        kind, matrix = self.matrices[name]
        values = pa.array(matrix[places].reshape(-1))
        if pa.types.is_fixed_size_list(kind):
            return pa.FixedSizeListArray.from_arrays(values, type=kind)
        offsets = pa.array(np.arange(len(places) + 1, dtype=np.int32) * np.int32(matrix.shape[1]))
        return pa.ListArray.from_arrays(offsets, values, type=kind)


def window_of(shards: Sequence[Shard], shuffled_N: NDArray[np.int64]) -> Window:
    """The window that these checked shards are, in log order, with its rows permuted so. Raises MixedEmbeddingsError."""
    first = shards[0]
    alike = all(shard.codec == first.codec for shard in shards)
    tables = [shard.table.select([*COLUMNS, LABELS]) if alike else _decoded(shard) for shard in shards]
    table = pa.concat_tables(tables).combine_chunks()
    found = {name: (table[name].type, matrix_of(table[name])) for name in (INPUT, LABELS)}
    matrices = {name: (kind, matrix) for name, (kind, matrix) in found.items() if matrix is not None}
    return Window(
        table=table.drop_columns(list(matrices)),
        matrices=matrices,
        codec=first.codec if alike else DENSE_FP16,
        classes=len(first.classes),
        embedding_ND=joined_embeddings([(embeddings_of(shard.table), len(shard.table)) for shard in shards]),
        shuffled_N=shuffled_N,
        teachers=frozenset(shard.teacher for shard in shards),
    )


def matrix_of(column: pa.ChunkedArray) -> NDArray[np.generic] | None:
    """The column as rows of one length over its own memory; None where it is no list of numbers, lacks some, or lengths differ."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) or not pa.types.is_primitive(kind.value_type):
        return None
    if column.num_chunks != 1 or not len(column) or column.null_count or pa.types.is_boolean(kind.value_type):
        return None
    lists = column.chunk(0)
    values = lists.flatten()
    width, rest = divmod(len(values), len(lists))
    if not width or rest or values.null_count or not pc.all(pc.equal(pc.list_value_length(lists), width)).as_py():
        return None
    return np.asarray(values.to_numpy(zero_copy_only=True).reshape(len(lists), width))


def joined_labels(parts: Sequence[tuple[SparseLabels | None, NDArray[np.float32]]]) -> SparseLabels | None:
    """What was recorded of all rows, from (recorded, dense) of each part; None if no part left a class out. A part without records
    has every class."""
    if all(recorded is None for recorded, _ in parts):
        return None
    whole = [recorded or _every_class(dense_BK) for recorded, dense_BK in parts]
    width = max(part.ids_NR.shape[1] for part in whole)
    room = [((0, 0), (0, width - part.ids_NR.shape[1])) for part in whole]
    return SparseLabels(
        ids_NR=np.concatenate([np.pad(part.ids_NR, pad) for part, pad in zip(whole, room, strict=True)]),
        log_probs_NR=np.concatenate(
            [np.pad(part.log_probs_NR, pad, constant_values=-np.inf) for part, pad in zip(whole, room, strict=True)]
        ),
        tail_N=np.concatenate([part.tail_N for part in whole]),
    )


def _every_class(log_probs_BK: NDArray[np.float32]) -> SparseLabels:
    rows, classes = log_probs_BK.shape
    ids_BK = np.broadcast_to(np.arange(classes), (rows, classes))
    return SparseLabels(ids_NR=ids_BK, log_probs_NR=log_probs_BK, tail_N=np.full(rows, -np.inf, dtype=np.float32))


def _decoded(shard: Shard) -> pa.Table:
    log_probs_NK = shard.log_probs()
    labels = pa.FixedSizeListArray.from_arrays(pa.array(log_probs_NK.reshape(-1)), log_probs_NK.shape[1])
    return shard.table.select(COLUMNS).append_column(LABELS, labels)
