"""When install failures are too many: a one-sided sequential likelihood-ratio test (Wald).

The release fails on 1 % of devices when all is well, on 5 % when it is not; each outcome moves the ratio, and the wave halts
the moment it reaches ln(1/alpha). The largest hardware classes of a wave have a test each, for what fails on one kind of device; the
others, and those that join late, share one; and where there are several classes, one more takes all together, for what fails
everywhere. So there is a bound on how many tests begin, though devices name their classes themselves. The test only ever halts, it
never accepts, so a wave is never declared good early. By Ville's inequality alpha bounds the chance that it ever halts a good release,
at whatever moment one looks. The alphas of all tests of one rollout sum to at most `ALPHA_TOTAL`: `ALPHA_INSTALLS` of it is for these,
the rest for `pipeline.rollout.comparison`. This module counts; what a halt does is `pipeline.rollout.steering`'s.
"""

import math
from dataclasses import dataclass, replace

GOOD_RATE = 0.01
"""p0: the share of installs that fail for reasons that are no fault of the release."""
BAD_RATE = 0.05
"""p1: the share from which the release is to blame."""
ALPHA_TOTAL = 0.01
ALPHA_INSTALLS = 0.008
ALPHA_FIRST_WAVE = 0.001
"""Five straight failures."""
ALPHA_LEAST = 1e-5
"""A test that begins anew with less would need more than seven straight failures: too blunt to go on with."""
POOLED, OTHERS = "all classes", "other classes"
"""The tests of all of a wave's hardware classes, and of those without a test of their own; no class has a space in its name."""
CLASSES_MOST = 8
"""Classes of a wave that have a test of their own."""
SMALLEST_VERDICT = 73
"""Fewest installs in a wave from which its pass says anything; below it, only all-confirmed passes."""

FAILURE_NATS = math.log(BAD_RATE / GOOD_RATE)
SUCCESS_NATS = math.log((1 - BAD_RATE) / (1 - GOOD_RATE))


@dataclass(frozen=True, kw_only=True)
class InstallTest:
    """The running test of one wave, and of one hardware class or of all."""

    alpha: float
    confirmed: int = 0
    failed: int = 0

    @property
    def evidence_nats(self) -> float:
        """Log-likelihood ratio of "5 % fail" over "1 % fail"."""
        return self.failed * FAILURE_NATS + self.confirmed * SUCCESS_NATS

    @property
    def bound_nats(self) -> float:
        return math.log(1 / self.alpha)

    @property
    def halts(self) -> bool:
        return self.evidence_nats >= self.bound_nats

    def count(self, *, failed: bool) -> "InstallTest":
        """The test after one more outcome. A test that halted stays as it was, so that nothing later undoes it."""
        if self.halts:
            return self
        return replace(self, failed=self.failed + 1) if failed else replace(self, confirmed=self.confirmed + 1)

    def overturn(self) -> "InstallTest":
        """The test after a device that had confirmed failed after all."""
        return self if self.halts else replace(self, failed=self.failed + 1, confirmed=max(self.confirmed - 1, 0))


def allot(*, spent: float, classes: int, pools: bool, first_wave: bool, waves_left: int) -> tuple[float, float]:
    """The alpha of each of `classes` tests, and of the pooled one (0 where none begins), of what is left.

    `waves_left` counts the waves that still come, the present one included. Outside the first wave one share more is kept back, for
    classes that join late and for tests that start anew after a resume. A share is a part of what is left, so the sum never exceeds the
    total; whoever starts tests anew looks at `ALPHA_LEAST`, or the parts become too small to find anything.
    """
    left = ALPHA_INSTALLS - spent
    budget = min(ALPHA_FIRST_WAVE * (classes + pools), left / 2) if first_wave else left / (waves_left + 1)
    pooled = min(ALPHA_FIRST_WAVE, budget / 2) if pools else 0.0
    return (budget - pooled) / classes, pooled
