"""Slices of the samples that judge: where a student that is good on the whole is bad.

A slice is what has one thing in common: a class, a quarter of the texts by length, a quarter by how sure the teacher is, or a value of
a column that the source carries beside the four of every source (`options.carry`; not `part`). What counts as right is the caller's.
The worst of many small slices looks bad by chance: those below a least number of samples are never named, the others come with a
Wilson interval each. What a slice is or lost "for sure" is so of all slices together: the risk of 5 % to say it of one that is no worse is
divided by their number (Bonferroni), so that more slices are no more reasons to refuse a good student. Pure.

Shapes: N samples, K classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.distill.paired import Z_ONE_SIDED_95, Z_TWO_SIDED_95, newcombe_interval, pairs, share_at_most, wilson_interval, z_of_several
from pipeline.labels.evidence import margin
from pipeline.students.samples import Samples

QUARTERS = (0.25, 0.5, 0.75)
CLASS, LENGTH, SURENESS = "class", "bytes of text", "margin of the teacher"

Cut: TypeAlias = tuple[str, str, NDArray[np.bool_]]
"""By what, its value, and which samples."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """How one slice fared. `low` and `high` hold the share right between them, two-sided 95 % of this slice alone."""

    by: str
    value: str
    samples: int
    right: int
    low: float
    high: float
    at_most: float
    """Share right that it does not exceed for sure (one-sided 95 % of all slices together, exact)."""
    incumbent_right: int | None
    """None where nothing runs yet."""
    drop_at_least: float | None
    """How much worse than the incumbent it is for sure (one-sided 95 % of all slices together, paired, Newcombe).
    Negative where it may be better."""

    @property
    def share(self) -> float:
        return self.right / self.samples

    @property
    def name(self) -> str:
        return f"{self.by} {self.value}"


def slices(
    samples: Samples,
    truth_N: NDArray[np.int64],
    right_N: NDArray[np.bool_],
    incumbent_right_N: NDArray[np.bool_] | None,
    *,
    classes: Sequence[str],
    rows_min: int,
) -> tuple[Slice, ...]:
    """Every slice of at least `rows_min` samples, the worst first: least share right, then the larger one."""
    cuts = [cut for cut in _cuts(samples, truth_N, classes, rows_min) if cut[2].sum() >= rows_min]
    found = [
        _slice(by, value, right_N[in_N], None if incumbent_right_N is None else incumbent_right_N[in_N], of=len(cuts))
        for by, value, in_N in cuts
    ]
    return tuple(sorted(found, key=lambda each: (each.share, -each.samples, each.name)))


def most_dropped(found: Sequence[Slice]) -> Slice | None:
    """The slice that lost most against the incumbent for sure."""
    compared = [each for each in found if each.drop_at_least is not None]
    return max(compared, key=lambda each: each.drop_at_least or 0.0, default=None)


def _slice(by: str, value: str, right_n: NDArray[np.bool_], incumbent_n: NDArray[np.bool_] | None, *, of: int) -> Slice:
    """One of so many."""
    low, high = wilson_interval(int(right_n.sum()), len(right_n), z=Z_TWO_SIDED_95)
    at_most = share_at_most(int(right_n.sum()), len(right_n), z=z_of_several(Z_ONE_SIDED_95, of))
    drop = None if incumbent_n is None else -newcombe_interval(pairs(right_n, incumbent_n), z=z_of_several(Z_ONE_SIDED_95, of))[1]
    return Slice(
        by=by,
        value=value,
        samples=len(right_n),
        right=int(right_n.sum()),
        low=low,
        high=high,
        at_most=at_most,
        incumbent_right=None if incumbent_n is None else int(incumbent_n.sum()),
        drop_at_least=drop,
    )


def _cuts(samples: Samples, truth_N: NDArray[np.int64], classes: Sequence[str], rows_min: int) -> Iterator[Cut]:
    """Every sample at most once for each `by`. Rare values of a column are left out here: there may be as many as samples."""
    for number, name in enumerate(classes):
        yield CLASS, name, truth_N == number
    if samples.inputs and isinstance(samples.inputs[0], str):
        lengths_N = np.array([len(text.encode()) for text in samples.inputs], dtype=np.float64)
        yield from _quarters(LENGTH, lengths_N, "{:,.0f}")
    if samples.teacher_NK is not None and samples.teacher_NK.shape[0]:
        yield from _quarters(SURENESS, margin(samples.teacher_NK).astype(np.float64), "{:.3f}")
    for column, values in samples.columns.items():
        values_N = np.array([value or "" for value in values], dtype=object)
        counts = Counter(values_N.tolist())
        for value in sorted(value for value in counts if value and counts[value] >= rows_min):
            yield column, value, np.asarray(values_N == value, dtype=np.bool_)


def _quarters(by: str, figures_N: NDArray[np.float64], shown: str) -> Iterator[Cut]:
    """Four parts by size; equal figures stay together, so there may be fewer. None where all are equal."""
    part_N = np.searchsorted(np.unique(np.quantile(figures_N, QUARTERS)), figures_N, side="left")
    parts = np.unique(part_N)
    if len(parts) < 2:
        return
    for part in parts:
        in_N = np.asarray(part_N == part, dtype=np.bool_)
        yield by, f"{shown.format(figures_N[in_N].min())} to {shown.format(figures_N[in_N].max())}", in_N
