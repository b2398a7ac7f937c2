"""How log-probabilities are stored: T=1, natural log, one named and versioned codec per shard.

A student chooses its own temperature, so a codec keeps log-probabilities and not probabilities (fp16 loses 2 % of those to zero).
Values are clamped at -30, below which no loss sees a difference; a teacher's -inf is normal. fp16 rounds each value, so a reader
renormalises in fp32.

K classes, N rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CLAMP_NATS = -30.0


@dataclass(frozen=True, kw_only=True)
class Codec:
    """`decode(encode(x), K)` is x up to the codec's error, renormalised, float32."""

    name: str
    version: int
    encode: Callable[[NDArray[np.float32]], pa.Array]
    decode: Callable[[pa.Array, int], NDArray[np.float32]]


def log_normalised(log_probs_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that sum to one, in float32."""
    top_N1 = log_probs_NK.max(axis=1, keepdims=True, initial=CLAMP_NATS)
    mass_N1 = np.exp(log_probs_NK - top_N1).sum(axis=1, keepdims=True)
    return np.asarray(log_probs_NK - top_N1 - np.log(mass_N1), dtype=np.float32)


def _encode_dense(log_probs_NK: NDArray[np.float32]) -> pa.Array:
    values = np.maximum(log_probs_NK, CLAMP_NATS).astype(np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _decode_dense(column: pa.Array, classes: int) -> NDArray[np.float32]:
    values = column.flatten().to_numpy(zero_copy_only=True)
    return log_normalised(values.reshape(-1, classes).astype(np.float32))


DENSE_FP16 = Codec(name="dense_fp16", version=1, encode=_encode_dense, decode=_decode_dense)

CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (DENSE_FP16,)}
