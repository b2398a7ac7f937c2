"""What every codec is: log-probabilities to an Arrow column and back, densely or as the few classes that were recorded.

A student chooses its own temperature, so a codec keeps log-probabilities and not probabilities (fp16 loses 2 % of those to zero).
Values are clamped at -30, below which no loss sees a difference; a teacher's -inf is normal. fp16 rounds each value, so a reader
renormalises in fp32.

N rows, K classes, R classes recorded.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.arrays import unfilled

CLAMP_NATS = -30.0
_SIGN_AND_HALF = np.int32(-(2**31) | 0x7FFF << 13)


@dataclass(frozen=True, kw_only=True)
class SparseLabels:
    """N labels as what was recorded of them. A row's recorded classes and its tail add to one; arrays may be read-only views."""

    ids_NR: NDArray[Any]
    """Classes, unsigned; a row with fewer than R ends in entries of class 0 with log-probability -inf."""
    log_probs_NR: NDArray[np.float32]
    tail_N: NDArray[np.float32]
    """Log of the mass of all classes without a record; -inf where there is none."""

    def piece(self, cut: slice) -> "SparseLabels":
        """Some of these labels, over the same memory."""
        return SparseLabels(ids_NR=self.ids_NR[cut], log_probs_NR=self.log_probs_NR[cut], tail_N=self.tail_N[cut])


class Codec(Protocol):
    """A frozen dataclass; its fields are what the schema's metadata says beside name and version."""

    name: ClassVar[str]
    version: ClassVar[int]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init__(self, **options: Any) -> None: ...

    def column_type(self, classes: int) -> pa.DataType:
        """Of every column that `encode` makes for so many classes."""
        ...

    def encode(self, log_probs_NK: NDArray[np.float32], rows_N: NDArray[np.int64]) -> pa.Array:
        """The column. `rows_N` are global row numbers: the same row and answer give the same label in any shard."""
        ...

    def decode(self, column: pa.Array, classes: int) -> NDArray[np.float32]:
        """float32 [N, K], what was encoded up to the codec's error, each row adding to one. The column may be a slice."""
        ...

    def sparse(self, column: pa.Array, classes: int) -> SparseLabels:
        """The same labels without the classes that have no record."""
        ...


def log_normalised(log_probs_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that sum to one, in float32."""
    top_N1 = log_probs_NK.max(axis=1, keepdims=True)
    shifted_NK = log_probs_NK - top_N1
    shifted_NK -= np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))
    return np.asarray(shifted_NK, dtype=np.float32)


def widened(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """The same finite numbers in float32, four times as fast as numpy's conversion.

    A half's sign, exponent and mantissa are put where a float32 has them; the exponents differ in what stands for 0, which is a factor.
    """
    wide = unfilled(halves.shape, np.float32)
    bits = wide.view(np.int32)
    bits[...] = halves.view(np.int16)  # with its sign in all the bits above
    bits <<= 13
    bits &= _SIGN_AND_HALF
    wide *= np.float32(2.0**112)
    return wide


def renormalised(log_probs_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that sum to one, of rows that did before each value was rounded; in place.

    Log-probabilities need not be shifted first as in `log_normalised`: none is so great that its exponential is too, and each row has one
    that is not tiny.
    """
    probs_NK = np.exp(log_probs_NK, out=unfilled(log_probs_NK.shape, np.float32))
    log_probs_NK -= np.log(probs_NK.sum(axis=1, keepdims=True))
    return log_probs_NK


def id_type(classes: int) -> type[np.unsignedinteger[Any]]:
    """The narrowest that numbers so many classes. Unsigned: int16 ends at class 32,767."""
    return np.uint16 if classes <= 2**16 else np.uint32
