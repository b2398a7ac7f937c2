"""Classes drawn in proportion to their probability, as counts: a sparse label whose mean over draws is the teacher's full answer.

Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs" (RS-KD), with the proposal equal to the
teacher, so that every draw weighs the same. There the draws are independent; here they are systematic: points at equal distances on the
cumulative distribution, moved together by one random number a row. The mean is the same, and no class's count is off by one draw or more.

A class without a record has no mass: the likelihood of one label says little, the gradient over many labels is that of the full answer.

N rows, K classes, R = most classes drawn in any row.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.codecs.codec import CLAMP_NATS, SparseLabels, id_type, renormalised

DRAWS_MAX = 2**16 - 1
_KEY = 0x6B64_7069_7065


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """4 + 3 u bytes a label of u drawn classes, up to 65,536 classes and 255 draws. u is at most `draws`; a sure teacher's is small."""

    name: ClassVar[str] = "sampled"
    version: ClassVar[int] = 1

    draws: int

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= DRAWS_MAX:
            raise ValueError(f"draws must be 1 to {DRAWS_MAX}, found {self.draws}")

    def column_type(self, classes: int) -> pa.DataType:
        fields = {"id": pa.from_numpy_dtype(id_type(classes)), "count": pa.from_numpy_dtype(self._count_type())}
        return pa.list_(pa.struct(fields))

    def encode(self, log_probs_NK: NDArray[np.float32], rows_N: NDArray[np.int64]) -> pa.Array:
        classes = log_probs_NK.shape[1]
        cumulative_NK = np.exp(log_probs_NK).cumsum(axis=1, dtype=np.float64)
        cumulative_NK /= cumulative_NK[:, -1:]
        cumulative_NK *= self.draws
        cumulative_NK += _shift(rows_N)[:, None]
        counts_NK = np.diff(np.floor(cumulative_NK, out=cumulative_NK), axis=1, prepend=0)
        row_E, id_E = np.nonzero(counts_NK)
        kind = self.column_type(classes)
        entries = [pa.array(id_E.astype(id_type(classes))), pa.array(counts_NK[row_E, id_E].astype(self._count_type()))]
        offsets = np.concatenate([[0], np.cumsum((counts_NK > 0).sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(entries, fields=list(kind.value_type)))

    def decode(self, column: pa.Array, classes: int) -> NDArray[np.float32]:
        row_E, _, id_E, log_share_E = self._drawn(column)
        dense_NK = np.full((len(column), classes), CLAMP_NATS, dtype=np.float32)
        dense_NK[row_E, id_E] = log_share_E
        return renormalised(dense_NK)

    def sparse(self, column: pa.Array, classes: int) -> SparseLabels:
        row_E, place_E, id_E, log_share_E = self._drawn(column)
        shape = (len(column), int(place_E.max(initial=0)) + 1)
        ids_NR, log_probs_NR = np.zeros(shape, dtype=id_type(classes)), np.full(shape, -np.inf, dtype=np.float32)
        ids_NR[row_E, place_E], log_probs_NR[row_E, place_E] = id_E, log_share_E
        return SparseLabels(ids_NR=ids_NR, log_probs_NR=log_probs_NR, tail_N=np.full(len(column), -np.inf, dtype=np.float32))

    def _count_type(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if self.draws < 2**8 else np.uint16

    def _drawn(self, column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any], NDArray[np.float32]]:
        """Of each entry: row, place within the row, class, log of its share of the draws."""
        offsets = column.offsets.to_numpy(zero_copy_only=True).astype(np.int64)
        entries = column.flatten()
        widths_N = np.diff(offsets)
        row_E = np.repeat(np.arange(len(column)), widths_N)
        place_E = np.arange(len(entries)) - np.repeat(offsets[:-1] - offsets[0], widths_N)
        counts_E = entries.field("count").to_numpy(zero_copy_only=True)
        log_share_E = np.log(counts_E.astype(np.float32) / np.float32(self.draws))
        return row_E, place_E, entries.field("id").to_numpy(zero_copy_only=True), log_share_E


def _shift(rows_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) a row, from Philox at the counter that is the row's number: nothing else decides it.

    32 bits, so that adding up to 65,535 draws is exact.
    """
    runs = np.split(rows_N, np.flatnonzero(np.diff(rows_N) != 1) + 1)
    raw = [np.random.Philox(key=_KEY, counter=int(run[0])).random_raw(4 * len(run))[::4] for run in runs if len(run)]
    return np.asarray((np.concatenate([np.empty(0, np.uint64), *raw]) >> np.uint64(32)) * 2.0**-32, dtype=np.float64)
