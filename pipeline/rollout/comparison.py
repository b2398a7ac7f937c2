"""Does the release answer worse than what it replaces? Devices of a wave against devices that were not yet offered it, at the same time.

Which device is in which group is decided by a hash of its id, so the groups are a fair draw and whatever happens to both (an evening, an
outage) happens to both alike. The unit is a device: however much one talks, it is one value, and no value weighs more. Tests are one-sided,
within each hardware class, and ask whether devices of the wave are worse by more than a margin: of latency and confidence by ranks,
summed over classes with van Elteren's weights; of agreement by means, because devices hold few answers against the teacher's, one more than
another, and ranks of such shares tell how many rather than how good. They are taken once, when a wave's soak is over, at a fixed share of
the rollout's error budget; under 30 devices on a side give no verdict. No data where others have data is no success: the wave is held for
it, and halted at the deadline.

P. H. van Elteren, On the combination of independent two-sample tests of Wilcoxon, Bull. Inst. Int. Stat. 37 (1960).
B. L. Welch, The significance of the difference between two means when the population variances are unequal, Biometrika 29 (1938).
"""

import enum
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.rollout.evidence import DeviceFacts, Serving
from pipeline.rollout.sequential import ALPHA_INSTALLS, ALPHA_TOTAL

ALPHA_COMPARISONS = ALPHA_TOTAL - ALPHA_INSTALLS
SMALLEST_GROUP = 30


class Metric(enum.StrEnum):
    AGREEMENT = "agreement"
    """With the teacher, on answers that a device could hold against the teacher's."""
    LATENCY = "latency"
    CONFIDENCE = "confidence"


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How much worse is still no harm."""

    agreement_drop: float = 0.02
    latency_ratio: float = 1.25
    confidence_drop: float = 0.05


USUAL_MARGINS = Margins()


class Finding(enum.StrEnum):
    NO_WORSE = "no_worse"
    """Not shown to be worse by more than the margin."""
    WORSE = "worse"
    TOO_FEW = "too_few"
    MISSING = "missing"
    """The wave's devices do not tell what the others tell."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of one wave."""

    metric: Metric
    finding: Finding
    wave_devices: int
    """That told it; only hardware classes with devices on both sides count."""
    control_devices: int
    wave_median: float
    """Of agreement the mean: of devices that asked little, most medians are 1."""
    control_median: float
    p_value: float
    alpha: float

    @property
    def says(self) -> str:
        """For a person, with the numbers."""
        unit = " ms" if self.metric is Metric.LATENCY else ""
        groups = f"{self.wave_devices} devices of the wave, {self.control_devices} not yet offered"
        if self.finding in (Finding.TOO_FEW, Finding.MISSING):
            return f"{self.metric}: no verdict ({groups} told it)"
        middle = "mean" if self.metric is Metric.AGREEMENT else "median"
        return (
            f"{self.metric}: {middle} {self.wave_median:.4g}{unit} against {self.control_median:.4g}{unit} "
            f"({groups}; p {self.p_value:.2g}, bound {self.alpha:.2g})"
        )


def compare_all(wave: Iterable[DeviceFacts], control: Iterable[DeviceFacts], margins: Margins, *, alpha: float) -> tuple[Comparison, ...]:
    """Each metric, at `alpha` each."""
    wave, control = list(wave), list(control)
    return tuple(compare(metric, wave, control, margins, alpha=alpha) for metric in Metric)


def compare(metric: Metric, wave: Sequence[DeviceFacts], control: Sequence[DeviceFacts], margins: Margins, *, alpha: float) -> Comparison:
    """One metric: is the wave worse by more than the margin?"""
    ours, theirs = _by_class(metric, wave), _by_class(metric, control)
    shared = sorted(ours.keys() & theirs.keys())
    wave_values, control_values = _flat(ours, shared), _flat(theirs, shared)
    strata = [([_forgiven(metric, value, margins) for value in ours[name]], theirs[name]) for name in shared]
    p_value, middle = (lower_mean_p_value(strata), _mean) if metric is Metric.AGREEMENT else (worse_p_value(strata), _median)
    if min(len(wave_values), len(control_values)) >= SMALLEST_GROUP:
        finding = Finding.WORSE if p_value <= alpha else Finding.NO_WORSE
    else:
        is_missing = _is_missing(ours, theirs, len(wave), len(control)) and (metric is not Metric.AGREEMENT or _asks_less(wave, control))
        finding = Finding.MISSING if is_missing else Finding.TOO_FEW
    return Comparison(
        metric=metric,
        finding=finding,
        wave_devices=len(wave_values),
        control_devices=len(control_values),
        wave_median=middle(wave_values),
        control_median=middle(control_values),
        p_value=p_value,
        alpha=alpha,
    )


def worse_p_value(strata: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """One-sided p of "the first of each pair is lower", by rank sums within strata (ties share a rank), normal approximation."""
    difference = variance = 0.0
    for lower, higher in strata:
        n, m = len(lower), len(higher)
        if not n or not m:
            continue
        ranks, ties = _ranks([*lower, *higher])
        weight, total = 1 / (n + m + 1), n + m
        difference += weight * (n * (total + 1) / 2 - sum(ranks[:n]))
        spread = total + 1 - ties / (total * (total - 1)) if total > 1 else 0.0
        variance += weight**2 * n * m / 12 * spread
    return 0.5 * math.erfc(difference / math.sqrt(2 * variance)) if variance > 0 else 1.0


def lower_mean_p_value(strata: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """One-sided p of "the mean of the first of each pair is lower", for shares: Welch's test, normal approximation, within strata.

    Each variance is that with two more devices, one at 0 and one at 1: a few that all say the same are no proof.
    """
    difference = variance = 0.0
    for lower, higher in strata:
        n, m = len(lower), len(higher)
        weight = n * m / (n + m)
        difference += weight * (_mean(higher) - _mean(lower))
        variance += weight**2 * (_spread(lower) / n**2 + _spread(higher) / m**2)
    return 0.5 * math.erfc(difference / math.sqrt(2 * variance)) if variance > 0 else 1.0


def _spread(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in (*values, 0.0, 1.0))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _ranks(values: Sequence[float]) -> tuple[list[float], float]:
    """Rank of each value, ties sharing their mean, and the sum of t^3 - t over ties of t."""
    counts = Counter(values)
    rank_of: dict[float, float] = {}
    below = 0
    for value in sorted(counts):
        rank_of[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [rank_of[value] for value in values], float(sum(count**3 - count for count in counts.values()))


def _by_class(metric: Metric, devices: Iterable[DeviceFacts]) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for facts in devices:
        value = _goodness(metric, facts.serving) if facts.serving is not None else None
        if value is not None:
            found[facts.hardware].append(value)
    return dict(found)


def _goodness(metric: Metric, serving: Serving) -> float | None:
    """A device's value, higher is better; None where it says nothing."""
    match metric:
        case Metric.LATENCY:
            return -serving.latency_p50_ms if serving.answers else None
        case Metric.CONFIDENCE:
            return serving.confidence_mean if serving.answers else None
        case Metric.AGREEMENT:
            return serving.agreed / serving.asked if serving.asked else None


def _forgiven(metric: Metric, value: float, margins: Margins) -> float:
    """The value of a device of the wave, made better by what is still no harm."""
    match metric:
        case Metric.LATENCY:
            return value / margins.latency_ratio
        case Metric.CONFIDENCE:
            return value + margins.confidence_drop
        case Metric.AGREEMENT:
            return value + margins.agreement_drop


def _is_missing(ours: Mapping[str, list[float]], theirs: Mapping[str, list[float]], wave: int, control: int) -> bool:
    told, control_told = sum(map(len, ours.values())), sum(map(len, theirs.values()))
    enough = wave >= SMALLEST_GROUP and control_told >= SMALLEST_GROUP
    return enough and told < SMALLEST_GROUP and told / wave < control_told / control / 2


def _asks_less(wave: Sequence[DeviceFacts], control: Sequence[DeviceFacts]) -> bool:
    """Fewer than half as many of the wave's answers were held against the teacher's as of the others'.

    Few answers are, so devices that switched a moment ago have none without being at fault: not to be told apart where so few were due.
    """
    (answers, asked), (control_answers, control_asked) = _drawn(wave), _drawn(control)
    due = answers * control_asked / control_answers if control_answers else 0.0
    return due >= SMALLEST_GROUP and asked < due / 2


def _drawn(devices: Iterable[DeviceFacts]) -> tuple[int, int]:
    """Answers of all devices, and how many of them were held against the teacher's."""
    told = [facts.serving for facts in devices if facts.serving is not None]
    return sum(serving.answers for serving in told), sum(serving.asked for serving in told)


def _flat(by_class: Mapping[str, list[float]], names: Iterable[str]) -> list[float]:
    return [abs(value) for name in names for value in by_class[name]]


def _median(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
