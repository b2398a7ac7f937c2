"""What a soft label says about its own quality, and which answers are no soft label at all.

Computed from the teacher's float32 answer before it is encoded. A teacher's -inf is normal; NaN or a row of nothing but -inf make a
bad sample. That rows add up to one is checked where the teacher is loaded. N rows, K classes.
"""

import numpy as np
from numpy.typing import NDArray

LEAST_NATS = np.float32(-1e4)
"""Stands in for -inf where it is multiplied by its probability: the product is 0, not NaN."""


def entropy_nats(log_probs_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shannon entropy of each row, in nats."""
    terms_NK = np.exp(log_probs_NK)
    terms_NK *= np.maximum(log_probs_NK, LEAST_NATS)
    return np.asarray(-terms_NK.sum(axis=1), dtype=np.float32)


def margin(log_probs_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of the first class minus that of the second; K >= 2."""
    top_N2 = np.exp(np.partition(log_probs_NK, -2, axis=1)[:, -2:])
    return np.asarray(top_N2[:, 1] - top_N2[:, 0], dtype=np.float32)


def agreement(log_probs_NK: NDArray[np.float32], class_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Probability of each row's hard label; NaN where that is -1, no class."""
    said_N = np.exp(log_probs_NK[np.arange(len(class_N)), class_N])
    return np.where(class_N < 0, np.float32(np.nan), said_N)


def faults(log_probs_NK: NDArray[np.float32]) -> dict[int, str]:
    """Row -> why its answer is no distribution. Empty if all are."""
    greatest_N = np.asarray(log_probs_NK.max(axis=1))  # NaN where any is
    nan_N, dead_N = np.isnan(greatest_N), np.isneginf(greatest_N)
    reasons = dict.fromkeys(np.flatnonzero(nan_N).tolist(), "the teacher answered NaN")
    return reasons | dict.fromkeys(np.flatnonzero(dead_N).tolist(), "the teacher gave every class probability 0")
