"""The k likeliest classes and the mass of all others.

A top-k that is renormalised without its tail teaches a student to be too sure of itself; the tail's mass is kept, and spread evenly over
the classes without a record. That is right at temperature 1 up to the shape of the tail, and approximate at any other.

N rows, K classes, R = min(k, K) recorded.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.codecs.codec import CLAMP_NATS, SparseLabels, id_type, renormalised


@dataclass(frozen=True, kw_only=True)
class TopK:
    """4 k + 2 bytes a label up to 65,536 classes, 6 k + 2 above. With k = K it is the dense codec, and says as much."""

    name: ClassVar[str] = "top_k"
    version: ClassVar[int] = 1

    k: int
    tail: Literal["uniform"] = "uniform"
    """How a reader spreads the tail's mass."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, found {self.k}")
        if self.tail != "uniform":
            raise ValueError(f"a tail is spread 'uniform', found {self.tail!r}")

    def column_type(self, classes: int) -> pa.DataType:
        recorded = min(self.k, classes)
        ids = pa.list_(pa.from_numpy_dtype(id_type(classes)), recorded)
        return pa.struct({"ids": ids, "log_probs": pa.list_(pa.float16(), recorded), "tail": pa.float16()})

    def encode(self, log_probs_NK: NDArray[np.float32], rows_N: NDArray[np.int64]) -> pa.Array:
        classes = log_probs_NK.shape[1]
        recorded = min(self.k, classes)
        ids_NR = _likeliest(log_probs_NK, recorded)
        values_NR = np.take_along_axis(log_probs_NK, ids_NR, axis=1)
        rest_NK = np.exp(log_probs_NK)
        np.put_along_axis(rest_NK, ids_NR, 0, axis=1)
        with np.errstate(divide="ignore"):  # no mass left is -inf
            tail_N = np.log(rest_NK.sum(axis=1, dtype=np.float64))
        flat = [
            pa.array(ids_NR.astype(id_type(classes)).reshape(-1)),
            pa.array(np.maximum(values_NR, CLAMP_NATS).astype(np.float16).reshape(-1)),
        ]
        lists = [pa.FixedSizeListArray.from_arrays(values, recorded) for values in flat]
        return pa.StructArray.from_arrays([*lists, pa.array(tail_N.astype(np.float16))], fields=list(self.column_type(classes)))

    def decode(self, column: pa.Array, classes: int) -> NDArray[np.float32]:
        ids_NR, values_NR, tail_N = _recorded(column, min(self.k, classes))
        share_N = tail_N - np.float32(np.log(max(classes - ids_NR.shape[1], 1)))
        dense_NK = np.repeat(np.maximum(share_N, CLAMP_NATS)[:, None], classes, axis=1)
        np.put_along_axis(dense_NK, ids_NR.astype(np.int64), values_NR, axis=1)
        return renormalised(dense_NK)

    def sparse(self, column: pa.Array, classes: int) -> SparseLabels:
        ids_NR, values_NR, tail_N = _recorded(column, min(self.k, classes))
        whole = renormalised(np.concatenate([values_NR, tail_N[:, None]], axis=1))
        return SparseLabels(ids_NR=ids_NR, log_probs_NR=whole[:, :-1], tail_N=whole[:, -1])


def _likeliest(log_probs_NK: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Classes by falling probability; of equals the one with the lower number."""
    least_N1 = -np.partition(-log_probs_NK, k - 1, axis=1)[:, k - 1 : k]
    above_NK, level_NK = log_probs_NK > least_N1, log_probs_NK == least_N1
    free_N1 = k - above_NK.sum(axis=1, keepdims=True)
    chosen_NK = above_NK | (level_NK & (level_NK.cumsum(axis=1) <= free_N1))
    ids_NR = np.nonzero(chosen_NK)[1].reshape(-1, k)
    order_NR = np.argsort(-np.take_along_axis(log_probs_NK, ids_NR, axis=1), axis=1, kind="stable")
    return np.take_along_axis(ids_NR, order_NR, axis=1)


def _recorded(column: pa.Array, recorded: int) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    """ids_NR (a view), log_probs_NR, tail_N as written."""
    ids, values = (column.field(name).flatten().to_numpy(zero_copy_only=True).reshape(-1, recorded) for name in ("ids", "log_probs"))
    return ids, values.astype(np.float32), column.field("tail").to_numpy(zero_copy_only=True).astype(np.float32)
