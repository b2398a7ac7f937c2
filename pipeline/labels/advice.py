"""What a codec costs in bytes and in error, measured on a teacher's own answers, and which to take. Pure.

N rows, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.codecs import Codec, DenseFp16, Sampled, TopK, log_normalised

KS = (2, 4, 8, 16, 32, 64, 128, 256)
DRAWS = (16, 64, 255)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One codec on one probe."""

    codec: Codec
    bytes_per_sample: float
    """Of the column's buffers, as they are written."""
    kl_mean_nats: float
    """Mean over the rows of KL(teacher || decoded)."""
    kl_p99_nats: float
    agreement: float
    """Share of rows whose likeliest class is still the likeliest."""
    mean_gap: float
    """L1 distance between the mean of all answers and the mean of all decoded ones, 0 to 2: what remains when errors cancel over rows."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    chosen: Measured | None
    """None if no codec stays within the budget."""
    measured: tuple[Measured, ...]
    """All candidates, by rising bytes."""


def candidates(classes: int) -> tuple[Codec, ...]:
    """The codecs worth measuring for so many classes."""
    return (DenseFp16(), *(TopK(k=k) for k in KS if k < classes), *(Sampled(draws=draws) for draws in DRAWS))


def measure(probe_NK: NDArray[np.float32], codec: Codec) -> Measured:
    """Encode and decode the probe, log-probabilities that may hold -inf, and compare. N >= 1."""
    column = codec.encode(probe_NK, np.arange(len(probe_NK)))
    true_NK, decoded_NK = log_normalised(probe_NK), codec.decode(column, probe_NK.shape[1])
    probs_NK = np.exp(true_NK)
    gaps_NK = np.where(probs_NK > 0, true_NK, 0) - np.where(probs_NK > 0, decoded_NK, 0)
    kl_N = np.maximum((probs_NK * gaps_NK).sum(axis=1, dtype=np.float64), 0)
    return Measured(
        codec=codec,
        bytes_per_sample=column.nbytes / len(probe_NK),
        kl_mean_nats=float(kl_N.mean()),
        kl_p99_nats=float(np.quantile(kl_N, 0.99)),
        agreement=float((true_NK.argmax(axis=1) == decoded_NK.argmax(axis=1)).mean()),
        mean_gap=float(np.abs(probs_NK.mean(axis=0, dtype=np.float64) - np.exp(decoded_NK).mean(axis=0, dtype=np.float64)).sum()),
    )


def advise(probe_NK: NDArray[np.float32], budget_bytes: float, *, codecs: Iterable[Codec] | None = None) -> Advice:
    """The codec of least mean KL that takes at most `budget_bytes` a sample; of equals the smaller."""
    asked = candidates(probe_NK.shape[1]) if codecs is None else codecs
    measured = sorted((measure(probe_NK, codec) for codec in asked), key=lambda found: found.bytes_per_sample)
    fitting = [found for found in measured if found.bytes_per_sample <= budget_bytes]
    return Advice(chosen=min(fitting, key=lambda found: found.kl_mean_nats, default=None), measured=tuple(measured))
