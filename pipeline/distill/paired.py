"""Comparing two models on the same samples: an interval for the difference, and McNemar's exact p. Pure, deterministic.

Counts of a paired comparison: `both` right, only the `candidate`, only the `incumbent`, `neither`.
"""

import bisect
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Z_ONE_SIDED_95 = 1.6448536269514722
Z_TWO_SIDED_95 = 1.959963984540054
_NORMAL = NormalDist()


def z_of_several(z: float, tests: int) -> float:
    """The z at which each of so many tests errs so rarely that any of them errs no more often than one at `z` (Bonferroni)."""
    return -_NORMAL.inv_cdf(_NORMAL.cdf(-z) / max(1, tests))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """How often each of two models was right on n samples."""

    both: int
    candidate: int
    incumbent: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.candidate + self.incumbent + self.neither

    @property
    def difference(self) -> float:
        """Share right of the candidate minus that of the incumbent."""
        return (self.candidate - self.incumbent) / self.n if self.n else float("nan")


def pairs(candidate_N: NDArray[np.bool_], incumbent_N: NDArray[np.bool_]) -> Pairs:
    return Pairs(
        both=int((candidate_N & incumbent_N).sum()),
        candidate=int((candidate_N & ~incumbent_N).sum()),
        incumbent=int((~candidate_N & incumbent_N).sum()),
        neither=int((~candidate_N & ~incumbent_N).sum()),
    )


def newcombe_interval(counts: Pairs, *, z: float) -> tuple[float, float]:
    """Interval of the paired difference of proportions; NaNs for no samples.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data", method 10:
    Wilson intervals of both shares, joined by their correlation. Sound where a bootstrap degenerates (no discordant pair).
    """
    if not counts.n:
        return float("nan"), float("nan")
    a, b, c, d = counts.both, counts.candidate, counts.incumbent, counts.neither
    first, second = (a + b) / counts.n, (a + c) / counts.n
    (low1, high1), (low2, high2) = wilson_interval(a + b, counts.n, z=z), wilson_interval(a + c, counts.n, z=z)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    excess = float(a * d - b * c)
    if excess > 0:
        excess = max(excess - counts.n / 2, 0.0)
    phi = excess / math.sqrt(margins) if margins else 0.0
    delta = first - second
    below = (first - low1) ** 2 - 2 * phi * (first - low1) * (high2 - second) + (high2 - second) ** 2
    above = (high1 - first) ** 2 - 2 * phi * (high1 - first) * (second - low2) + (second - low2) ** 2
    return delta - math.sqrt(max(below, 0.0)), delta + math.sqrt(max(above, 0.0))


def samples_to_tell(share: float, *, margin: float) -> int | None:
    """From how many samples on two models that answer alike, and so large a share right, are told to differ by less than `margin`.

    One-sided 95 %, as the gate asks. None where no number of samples does.
    """
    if not margin:
        return None

    def tells(n: int) -> bool:
        right = round(share * n)
        low, _ = newcombe_interval(Pairs(both=right, candidate=0, incumbent=0, neither=n - right), z=Z_ONE_SIDED_95)
        return low > -margin

    enough = 1
    while not tells(enough):
        enough *= 2
    return bisect.bisect_left(range(1, enough + 1), True, key=tells) + 1


def wilson_interval(right: int, n: int, *, z: float) -> tuple[float, float]:
    """Interval of a share. Wilson 1927."""
    share, square = right / n, z * z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_at_most(right: int, n: int, *, z: float) -> float:
    """One-sided upper bound of a share, never too low: at high shares Wilson's is, the more the larger z. Clopper and Pearson 1934."""
    return 1.0 if right == n else float(betaincinv(right + 1, n - right, _NORMAL.cdf(z)))


def mcnemar_exact_p(counts: Pairs) -> float:
    """Two-sided exact p of "both are right equally often", from the discordant pairs. McNemar 1947."""
    discordant, fewer = counts.candidate + counts.incumbent, min(counts.candidate, counts.incumbent)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
    return float(min(1.0, 2 * tail / 2**discordant))


def mean_interval_95(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and two-sided 95 % interval of paired differences over few repetitions (Student's t)."""
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return mean, float("nan"), float("nan")
    half = _T_975[min(n - 1, len(_T_975)) - 1] * float(np.std(differences, ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


_T_975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
)
"""Student's t, 97.5 %, for 1, 2, 3 ... degrees of freedom; beyond the last the last, which is a little wide."""
