"""Where a file's answers are right and wrong: by slice, by how sure it is, and which class it takes for which. Pure.

What a verdict keeps, so that `kdpipe report` shows what the gate saw without asking anything again. Bounded whatever the number of classes:
of many, the commonest confusions.

Shapes: N samples, K classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.distill.metrics import reliability, right
from pipeline.students.samples import Samples
from pipeline.students.slices import Slice, slices

VERSION = 1
CONFUSIONS_MAX = 400


@dataclass(frozen=True, kw_only=True)
class Band:
    """Answers whose first class has about the same probability."""

    samples: int
    confidence: float
    """Mean probability of the first class."""
    right: int


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Samples of a class, and of those the ones that were answered so. By the class's place in the run file."""

    place: int
    samples: int
    right: int


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One class taken for another, so many times."""

    truth: int
    said: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Of one file on the samples that judged it."""

    slices: tuple[Slice, ...]
    bands: tuple[Band, ...]
    classes: tuple[ClassCount, ...]
    """Those that have samples."""
    confusions: tuple[Confusion, ...]
    """The commonest first, at most CONFUSIONS_MAX."""
    confusions_left_out: int
    """Samples of those beyond."""
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def break_down(
    log_probs_NK: NDArray[np.float64],
    truth_N: NDArray[np.int64],
    samples: Samples,
    incumbent_NK: NDArray[np.float64] | None = None,
    *,
    classes: Sequence[str],
    rows_min: int,
) -> Breakdown:
    """`truth_N` is what counts as right: the label, or the teacher's first class."""
    said_N = log_probs_NK.argmax(axis=1)
    right_N = right(log_probs_NK, truth_N)
    incumbent_right_N = None if incumbent_NK is None else right(incumbent_NK, truth_N)
    counts_KK = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts_KK, (truth_N, said_N), 1)
    wrong = _confusions(counts_KK)
    return Breakdown(
        slices=slices(samples, truth_N, right_N, incumbent_right_N, classes=classes, rows_min=rows_min),
        bands=_bands(log_probs_NK, truth_N),
        classes=tuple(
            ClassCount(place=place, samples=int(row.sum()), right=int(row[place])) for place, row in enumerate(counts_KK) if row.any()
        ),
        confusions=wrong[:CONFUSIONS_MAX],
        confusions_left_out=sum(each.samples for each in wrong[CONFUSIONS_MAX:]),
    )


def _confusions(counts_KK: NDArray[np.int64]) -> tuple[Confusion, ...]:
    truths, saids = np.nonzero(counts_KK - np.diag(np.diag(counts_KK)))
    found = (
        Confusion(truth=truth, said=said, samples=int(counts_KK[truth, said]))
        for truth, said in zip(truths.tolist(), saids.tolist(), strict=True)
    )
    return tuple(sorted(found, key=lambda each: (-each.samples, each.truth, each.said)))


def _bands(log_probs_NK: NDArray[np.float64], truth_N: NDArray[np.int64]) -> tuple[Band, ...]:
    counts_B, confidence_B, right_B = reliability(log_probs_NK, truth_N)
    return tuple(
        Band(samples=int(count), confidence=float(confidence) / int(count), right=round(float(right)))
        for count, confidence, right in zip(counts_B, confidence_B, right_B, strict=True)
        if count
    )
