"""Every class, in fp16. N rows, K classes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.codecs.codec import CLAMP_NATS, SparseLabels, id_type, renormalised, widened


@dataclass(frozen=True, kw_only=True)
class DenseFp16:
    """2 K bytes a label; any temperature can be formed from it exactly."""

    name: ClassVar[str] = "dense_fp16"
    version: ClassVar[int] = 1

    def column_type(self, classes: int) -> pa.DataType:
        return pa.list_(pa.float16(), classes)

    def encode(self, log_probs_NK: NDArray[np.float32], rows_N: NDArray[np.int64]) -> pa.Array:
        values = np.maximum(log_probs_NK, CLAMP_NATS).astype(np.float16)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

    def decode(self, column: pa.Array, classes: int) -> NDArray[np.float32]:
        values = column.values.to_numpy(zero_copy_only=True)[column.offset * classes :][: len(column) * classes]
        return renormalised(widened(values).reshape(-1, classes))

    def sparse(self, column: pa.Array, classes: int) -> SparseLabels:
        log_probs_NK = self.decode(column, classes)
        return SparseLabels(
            ids_NR=np.broadcast_to(np.arange(classes, dtype=id_type(classes)), log_probs_NK.shape),
            log_probs_NR=log_probs_NK,
            tail_N=np.full(len(log_probs_NK), -np.inf, dtype=np.float32),
        )


DENSE_FP16 = DenseFp16()
