"""How far a file's answers are from those of the module it was made of, and what of that may be chance.

Accuracy is counted on hard labels where there are enough of them; elsewhere what counts is the share of samples on which both name one
class. Left to others: what follows (`export`).

Shapes: N samples, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.distill.metrics import accuracy, agreement, log_softmax, right
from pipeline.students.samples import Samples

Z_95 = 1.96


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the file is from the module it was made of, on real samples, at temperature 1."""

    samples: int
    max_log_prob_difference: float
    agreement: float
    """Share of samples with the same first class."""


def parity_of(logits_NK: NDArray[np.float32], module_NK: NDArray[np.float32]) -> Parity:
    return Parity(
        samples=len(module_NK),
        max_log_prob_difference=float(np.abs(log_softmax(logits_NK) - log_softmax(module_NK)).max()),
        agreement=agreement(logits_NK, module_NK),
    )


def loss_of(logits_NK: NDArray[np.float32], module_NK: NDArray[np.float32], choose: Samples) -> float:
    """Accuracy that the file loses against the module; where labels are too few, the share of samples on which they differ."""
    rows = choose.rows_to_count_on
    if len(rows):
        return accuracy(module_NK[rows], choose.hard_N[rows]) - accuracy(logits_NK[rows], choose.hard_N[rows])
    return 1 - agreement(logits_NK, module_NK)


def loss_basis(choose: Samples) -> str:
    """By what `loss_of` and `as_right` count, for a person."""
    labels = len(choose.rows_to_count_on)
    return f"hard labels of {labels} samples of choose" if labels else f"the module's own answers to {len(choose)} samples of choose"


def as_right(logits_NK: NDArray[np.float32], module_NK: NDArray[np.float32], choose: Samples, *, budget: float) -> bool:
    """Whether the accuracy lost is within the budget and chance (95 %, paired); where labels are too few, within the budget alone."""
    rows = choose.rows_to_count_on
    if not len(rows):
        return loss_of(logits_NK, module_NK, choose) <= budget
    file_M, module_M = (right(answers[rows], choose.hard_N[rows]) for answers in (logits_NK, module_NK))
    chance = Z_95 * float(np.sqrt((file_M != module_M).sum())) / len(rows)
    return float(module_M.mean() - file_M.mean()) <= budget + chance


def nats_between(module_NK: NDArray[np.float32], logits_NK: NDArray[np.float32]) -> float:
    """Mean KL(module || file)."""
    said_NK = log_softmax(module_NK)
    return float((np.exp(said_NK) * (said_NK - log_softmax(logits_NK))).sum(axis=1).mean())
