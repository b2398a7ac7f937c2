"""A wave against devices not yet offered the release: what is worse is seen, what is not is hardly ever, and no data is no success."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.rollout.comparison import USUAL_MARGINS, Comparison, Finding, Metric, compare, lower_mean_p_value, worse_p_value
from pipeline.rollout.evidence import DeviceFacts, Serving

ALPHA = 0.0005


def device(latency_ms: float = 1.0, *, confidence: float = 0.9, hardware: str = "x86", asked: int = 0, agreed: int = 0) -> DeviceFacts:
    serving = Serving(answers=max(1, asked), confidence_mean=confidence, latency_p50_ms=latency_ms, asked=asked, agreed=agreed)
    return DeviceFacts(hardware=hardware, serving=serving)


def silent(count: int) -> list[DeviceFacts]:
    return [DeviceFacts(hardware="x86")] * count


def latency(wave: list[DeviceFacts], control: list[DeviceFacts], *, alpha: float = ALPHA) -> Comparison:
    return compare(Metric.LATENCY, wave, control, USUAL_MARGINS, alpha=alpha)


def drawn(seed: int, count: int, median_ms: float, hardware: str = "x86") -> list[DeviceFacts]:
    values = np.random.default_rng(seed).lognormal(np.log(median_ms), 0.2, count)
    return [device(float(value), hardware=hardware) for value in values]


@given(lower=st.lists(st.integers(0, 20), min_size=3, max_size=60), higher=st.lists(st.integers(0, 20), min_size=3, max_size=60))
def test_one_class_is_the_rank_sum_test_of_scipy(lower: list[int], higher: list[int]) -> None:
    ours = worse_p_value([([float(v) for v in lower], [float(v) for v in higher])])
    if len({*lower, *higher}) == 1:
        assert ours == 1.0
        return
    theirs = stats.mannwhitneyu(lower, higher, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_twice_as_slow_is_worse_and_says_the_numbers() -> None:
    found = latency(drawn(1, 60, 2.0), drawn(2, 200, 1.0))
    assert found.finding is Finding.WORSE
    assert "ms against" in found.says
    assert "60 devices of the wave, 200 not yet offered" in found.says


def test_slower_by_less_than_the_margin_is_no_harm() -> None:
    assert latency(drawn(1, 500, 1.1), drawn(2, 5000, 1.0)).finding is Finding.NO_WORSE


def test_a_release_that_is_no_slower_is_halted_no_oftener_than_alpha() -> None:
    """At the margin itself, the worst case of what is no harm."""
    random, alpha, trials = np.random.default_rng(3), 0.02, 1500
    wave = random.lognormal(np.log(1.25), 0.3, (trials, 40)) / 1.25
    control = random.lognormal(0.0, 0.3, (trials, 60))
    worse = sum(worse_p_value([((-w).tolist(), (-c).tolist())]) <= alpha for w, c in zip(wave, control, strict=True))
    assert worse / trials <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / trials)


def test_a_wave_with_more_of_the_slow_hardware_is_not_slower() -> None:
    wave = [*drawn(1, 80, 10.0, "pi3"), *drawn(2, 40, 1.0)]
    control = [*drawn(3, 40, 10.0, "pi3"), *drawn(4, 400, 1.0)]
    assert latency(wave, control).finding is Finding.NO_WORSE


def test_slower_on_one_hardware_class_alone_is_worse() -> None:
    wave = [*drawn(1, 80, 30.0, "pi3"), *drawn(2, 80, 1.0)]
    control = [*drawn(3, 200, 10.0, "pi3"), *drawn(4, 200, 1.0)]
    assert latency(wave, control).finding is Finding.WORSE


def test_a_device_that_floods_or_lies_is_one_rank() -> None:
    assert latency([*drawn(1, 60, 1.0), *[device(1e6)] * 5], drawn(2, 200, 1.0)).finding is Finding.NO_WORSE


@pytest.mark.parametrize(("wave", "control"), [(29, 500), (500, 29), (0, 0)])
def test_under_thirty_devices_on_a_side_give_no_verdict(wave: int, control: int) -> None:
    assert latency(drawn(1, wave, 9.0), drawn(2, control, 1.0)).finding is Finding.TOO_FEW


def test_hardware_that_is_on_one_side_only_does_not_count() -> None:
    assert latency(drawn(1, 60, 9.0, "pi3"), drawn(2, 200, 1.0)).finding is Finding.TOO_FEW


def test_a_wave_that_does_not_tell_what_others_tell_is_missing() -> None:
    assert latency(silent(60), drawn(2, 200, 1.0)).finding is Finding.MISSING


def test_a_wave_as_quiet_as_the_others_is_not_missing() -> None:
    assert latency([*silent(90), *drawn(1, 10, 1.0)], [*silent(900), *drawn(2, 100, 1.0)]).finding is Finding.TOO_FEW


def test_less_sure_and_less_in_agreement_is_worse_too() -> None:
    wave = [device(confidence=0.6 + n / 1000, asked=10, agreed=7) for n in range(60)]
    control = [device(confidence=0.9 + n / 1000, asked=10, agreed=9) for n in range(90)]
    for metric in (Metric.CONFIDENCE, Metric.AGREEMENT):
        assert compare(metric, wave, control, USUAL_MARGINS, alpha=ALPHA).finding is Finding.WORSE
    assert compare(Metric.CONFIDENCE, control, wave, USUAL_MARGINS, alpha=ALPHA).finding is Finding.NO_WORSE


def test_who_was_never_asked_says_nothing_of_agreement() -> None:
    found = compare(Metric.AGREEMENT, [device()] * 50, [device()] * 50, USUAL_MARGINS, alpha=ALPHA)
    assert (found.finding, found.wave_devices, found.control_devices) == (Finding.TOO_FEW, 0, 0)


def asking(count: int, *, answers: int, asked: int) -> list[DeviceFacts]:
    serving = Serving(answers=answers, confidence_mean=0.9, latency_p50_ms=1.0, asked=asked, agreed=asked)
    return [DeviceFacts(hardware="x86", serving=serving)] * count


@pytest.mark.parametrize(
    ("answers", "asked", "finding"),
    [
        (100, 0, Finding.TOO_FEW),  # 20 were due of all
        (1000, 0, Finding.MISSING),
        (1000, 1, Finding.NO_WORSE),
    ],
)
def test_a_wave_that_had_no_time_to_ask_the_teacher_is_not_missing_and_one_that_never_does_is(
    answers: int, asked: int, finding: Finding
) -> None:
    found = compare(
        Metric.AGREEMENT,
        asking(40, answers=answers, asked=asked),
        asking(100, answers=1000, asked=5),
        USUAL_MARGINS,
        alpha=ALPHA,
    )
    assert found.finding is finding


def shares(random: np.random.Generator, count: int, agreement: float, asked: int, hardware: str = "x86") -> list[DeviceFacts]:
    """Devices that held so many answers against the teacher's, and agreed as often as it happened."""
    return [device(hardware=hardware, asked=asked, agreed=int(random.binomial(asked, agreement))) for _ in range(count)]


@pytest.mark.parametrize(("wave_asked", "control_asked"), [(1, 1), (1, 6), (6, 1), (30, 30)])
def test_how_many_answers_a_device_held_against_the_teachers_makes_its_agreement_neither_worse_nor_better(
    wave_asked: int, control_asked: int
) -> None:
    """At the margin itself no more halts than alpha; a fall to half is seen even from one answer a device."""
    random, alpha, trials = np.random.default_rng(5), 0.02, 300
    worse = sum(
        lower_mean_p_value(
            [
                (
                    (random.binomial(wave_asked, 0.88, 60) / wave_asked + 0.02).tolist(),
                    (random.binomial(control_asked, 0.9, 200) / control_asked).tolist(),
                )
            ]
        )
        <= alpha
        for _ in range(trials)
    )
    assert worse / trials <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / trials)
    found = compare(
        Metric.AGREEMENT,
        shares(random, 60, 0.45, wave_asked),
        shares(random, 200, 0.9, control_asked),
        USUAL_MARGINS,
        alpha=ALPHA,
    )
    assert found.finding is Finding.WORSE
    assert "agreement: mean 0." in found.says


def test_a_wave_with_more_of_the_hardware_that_agrees_less_does_not_agree_less() -> None:
    random = np.random.default_rng(6)
    wave = [*shares(random, 200, 0.6, 5, "pi3"), *shares(random, 40, 0.95, 5)]
    control = [*shares(random, 40, 0.6, 5, "pi3"), *shares(random, 400, 0.95, 5)]
    assert compare(Metric.AGREEMENT, wave, control, USUAL_MARGINS, alpha=ALPHA).finding is Finding.NO_WORSE


def test_a_few_devices_that_all_say_the_same_prove_nothing() -> None:
    assert lower_mean_p_value([([0.9] * 3, [1.0] * 3)]) > 0.05
    assert lower_mean_p_value([]) == 1.0
