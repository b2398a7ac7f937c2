"""The sequential test halts what is bad quickly, and a good release hardly ever."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rollout.sequential import ALPHA_FIRST_WAVE, ALPHA_TOTAL, BAD_RATE, GOOD_RATE, SMALLEST_VERDICT, InstallTest, allot


def run(test: InstallTest, failures: list[bool]) -> InstallTest:
    for failed in failures:
        test = test.count(failed=failed)
    return test


def test_five_straight_failures_halt_the_first_wave_and_four_do_not() -> None:
    test = InstallTest(alpha=ALPHA_FIRST_WAVE)
    assert not run(test, [True] * 4).halts
    assert run(test, [True] * 5).halts


def test_evidence_is_the_likelihood_ratio() -> None:
    test = run(InstallTest(alpha=0.01), [False, True, False, False])
    expected = math.log(BAD_RATE / GOOD_RATE) + 3 * math.log((1 - BAD_RATE) / (1 - GOOD_RATE))
    assert test.evidence_nats == math.fsum([expected]) or math.isclose(test.evidence_nats, expected)


@given(st.lists(st.booleans(), max_size=200), st.lists(st.booleans(), max_size=50))
def test_nothing_after_a_halt_undoes_it(before: list[bool], after: list[bool]) -> None:
    halted = run(InstallTest(alpha=0.001), before)
    if halted.halts:
        assert run(halted, after) == halted
        assert halted.overturn() == halted


def test_a_confirmed_device_that_fails_later_counts_as_one_failure_and_no_success() -> None:
    assert InstallTest(alpha=0.001, confirmed=3, failed=1).overturn() == InstallTest(alpha=0.001, confirmed=2, failed=2)


def test_a_good_release_is_halted_no_oftener_than_alpha() -> None:
    random = np.random.default_rng(7)
    alpha, trials, installs = 0.01, 4000, 1000
    failed = np.cumsum(random.random((trials, installs)) < GOOD_RATE, axis=1)
    total = np.arange(1, installs + 1)
    good, bad = GOOD_RATE, BAD_RATE
    nats = failed * math.log(bad / good) + (total - failed) * math.log((1 - bad) / (1 - good))
    halted = (nats >= math.log(1 / alpha)).any(axis=1).mean()
    assert halted <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def test_a_release_that_fails_on_one_in_ten_is_halted_within_a_few_hundred_installs() -> None:
    random = np.random.default_rng(7)
    test, installs = InstallTest(alpha=ALPHA_FIRST_WAVE), 0
    while not test.halts and installs < 1000:
        test, installs = test.count(failed=bool(random.random() < 0.1)), installs + 1
    assert test.halts
    assert installs < 300


@given(
    waves=st.integers(1, 20), classes=st.lists(st.integers(1, 12), min_size=1, max_size=20), resumes=st.integers(0, 10), pools=st.booleans()
)
def test_alphas_of_a_rollout_never_sum_to_more_than_the_total(waves: int, classes: list[int], resumes: int, *, pools: bool) -> None:
    spent = 0.0
    for wave in range(1, waves + 1):
        tests = classes[(wave - 1) % len(classes)]
        for round_ in range(1 + resumes):
            is_first = wave == 1 and round_ == 0
            each, pooled = allot(spent=spent, classes=tests, pools=pools, first_wave=is_first, waves_left=waves - wave + 1)
            assert 0 < each <= ALPHA_FIRST_WAVE * 10
            assert (0 < pooled <= ALPHA_FIRST_WAVE) if pools else pooled == 0
            spent += each * tests + pooled
    assert spent <= ALPHA_TOTAL * (1 + 1e-9)


@given(classes=st.integers(2, 100))
def test_the_first_wave_gets_its_thousandth_however_many_classes_there_are(classes: int) -> None:
    assert allot(spent=0.0, classes=1, pools=False, first_wave=True, waves_left=3) == (ALPHA_FIRST_WAVE, 0.0)
    assert allot(spent=0.0, classes=classes, pools=True, first_wave=True, waves_left=3)[1] == ALPHA_FIRST_WAVE
    assert SMALLEST_VERDICT == 73
