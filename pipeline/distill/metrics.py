"""How good answers are: accuracy, AUC, recall at a fixed false-positive rate, calibration, agreement. Pure numpy.

Shapes: N samples, K classes. Labels are int64 classes, log-probabilities natural. Figures refuse nothing and guess nothing: one that the
data do not define (no positive sample, no sample at all) is NaN. What is fitted refuses answers that are no numbers.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

TEMPERATURE_MIN, TEMPERATURE_MAX = 0.25, 10.0


def log_softmax(logits_NK: Floats) -> NDArray[np.float64]:
    """Natural log-probabilities of each row, float64."""
    shifted_NK = np.asarray(logits_NK, dtype=np.float64)
    shifted_NK = shifted_NK - shifted_NK.max(axis=1, keepdims=True)
    return np.asarray(shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True)))


def right(log_probs_NK: Floats, hard_N: Ints) -> NDArray[np.bool_]:
    """Whether each sample's first class is the label; an answer that is not a number never is. [N]"""
    return np.asarray((log_probs_NK.argmax(axis=1) == hard_N) & ~np.isnan(log_probs_NK).any(axis=1))


def accuracy(log_probs_NK: Floats, hard_N: Ints) -> float:
    """Share of samples whose first class is the label."""
    return float(np.mean(right(log_probs_NK, hard_N))) if len(hard_N) else float("nan")


def agreement(log_probs_NK: Floats, teacher_NK: Floats) -> float:
    """Share of samples on which student and teacher have the same first class."""
    return accuracy(log_probs_NK, teacher_NK.argmax(axis=1))


def auc(score_N: Floats, positive_N: NDArray[np.bool_]) -> float:
    """Probability that a positive sample scores above a negative one, ties counting half (Mann-Whitney U)."""
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse_N, counts_U = np.unique(score_N, return_inverse=True, return_counts=True)
    last_U = np.cumsum(counts_U)
    rank_N = (last_U - (counts_U - 1) / 2)[inverse_N]
    return float((rank_N[positive_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def recall_at_fpr(score_N: Floats, positive_N: NDArray[np.bool_], *, fpr_max: float) -> float:
    """The largest share of positive samples found by a threshold whose false-positive rate is at most `fpr_max`."""
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return float("nan")
    negative_scores = np.sort(score_N[~positive_N])[::-1]
    allowed = int(np.floor(fpr_max * negatives + 1e-9))
    if allowed >= negatives:
        return 1.0
    return float(np.mean(score_N[positive_N] > negative_scores[allowed]))


def reliability(log_probs_NK: Floats, hard_N: Ints, *, bins: int = 15) -> tuple[Ints, NDArray[np.float64], Ints]:
    """Samples by the first class's probability, in equal bins: how many, the sum of that probability, how many are right. [bins] each.

    An answer that is not a number is sure of nothing.
    """
    confidence_N, right_N = np.nan_to_num(np.exp(log_probs_NK.max(axis=1))), right(log_probs_NK, hard_N)
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    counts_B, right_B = np.bincount(bin_N, minlength=bins), np.bincount(bin_N[right_N], minlength=bins)
    confidence_B = np.bincount(bin_N, weights=confidence_N, minlength=bins).astype(np.float64)
    return counts_B.astype(np.int64), confidence_B, right_B.astype(np.int64)


def threshold_at_fpr(score_N: Floats, positive_N: NDArray[np.bool_], *, fpr_max: float) -> float | None:
    """The lowest score that says positive of at most `fpr_max` of the negatives (score >= threshold); None without negatives."""
    negative_scores = np.sort(score_N[~positive_N])[::-1]
    allowed = int(np.floor(fpr_max * len(negative_scores) + 1e-9))
    if not len(negative_scores):
        return None
    return float(np.nextafter(negative_scores[allowed], np.inf)) if allowed < len(negative_scores) else float(negative_scores[-1])


def expected_calibration_error(log_probs_NK: Floats, hard_N: Ints, *, bins: int = 15) -> float:
    """Mean gap between the first class's probability and how often it is right, over equal bins (Guo et al. 2017)."""
    if not len(hard_N):
        return float("nan")
    _, confidence_B, right_B = reliability(log_probs_NK, hard_N, bins=bins)
    return float(np.abs(confidence_B - right_B).sum() / len(hard_N))


def nll(log_probs_NK: Floats, target_NK: Floats) -> float:
    """Mean cross-entropy with target probabilities (one-hot for hard labels), nats."""
    return float(-(target_NK * log_probs_NK).sum(axis=1).mean()) if len(target_NK) else float("nan")


def one_hot(hard_N: Ints, classes: int) -> NDArray[np.float64]:
    return np.eye(classes)[hard_N]


def fit_temperature(logits_NK: Floats, target_NK: Floats) -> float:
    """The temperature under which `softmax(logits / T)` has the least cross-entropy with the targets (Guo et al. 2017).

    The loss is convex in 1/T; its derivative is bisected within [TEMPERATURE_MIN, TEMPERATURE_MAX]. 1.0 for no samples.
    Raises ValueError for logits or targets that are not finite: every comparison with NaN would lead to the same end.
    """
    if not (np.isfinite(logits_NK).all() and np.isfinite(target_NK).all()):
        raise ValueError("a temperature is fitted to finite logits and targets")
    if not len(target_NK):
        return 1.0
    wanted = float((target_NK * logits_NK).sum(axis=1).mean())
    low, high = 1 / TEMPERATURE_MAX, 1 / TEMPERATURE_MIN
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = float((np.exp(log_softmax(logits_NK * middle)) * logits_NK).sum(axis=1).mean())
        low, high = (middle, high) if expected < wanted else (low, middle)
    return float(1 / (low * high) ** 0.5)
