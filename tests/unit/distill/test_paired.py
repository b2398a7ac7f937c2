"""Paired comparisons against scipy, a bootstrap and the published example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import t as student_t

from pipeline.distill.paired import (
    Z_ONE_SIDED_95,
    Z_TWO_SIDED_95,
    Pairs,
    mcnemar_exact_p,
    mean_interval_95,
    newcombe_interval,
    pairs,
    samples_to_tell,
    wilson_interval,
)

counts = st.builds(Pairs, both=st.integers(0, 300), candidate=st.integers(0, 60), incumbent=st.integers(0, 60), neither=st.integers(0, 60))


@given(found=counts)
def test_mcnemar_is_scipys_exact_binomial_test(found: Pairs) -> None:
    discordant = found.candidate + found.incumbent
    expected = binomtest(found.candidate, discordant).pvalue if discordant else 1.0
    assert mcnemar_exact_p(found) == pytest.approx(expected, rel=1e-9)


@given(right=st.integers(0, 200), n=st.integers(1, 200))
def test_wilsons_interval_is_scipys(right: int, n: int) -> None:
    right = min(right, n)
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, n, z=Z_TWO_SIDED_95) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_newcombes_interval_is_that_of_his_table() -> None:
    """Newcombe 1998, table III, method 10, example (36, 12, 2, 0): 0.0569 to 0.3404; and the margins 0.2400 apart by difference."""
    low, high = newcombe_interval(Pairs(both=36, candidate=12, incumbent=2, neither=0), z=Z_TWO_SIDED_95)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=5e-4)


@given(found=counts.filter(lambda c: c.n > 0))
def test_the_interval_holds_the_estimate_and_turns_over_with_the_roles(found: Pairs) -> None:
    low, high = newcombe_interval(found, z=Z_TWO_SIDED_95)
    assert -1 - 1e-9 <= low <= found.difference + 1e-12
    assert found.difference - 1e-12 <= high <= 1 + 1e-9
    turned = Pairs(both=found.both, candidate=found.incumbent, incumbent=found.candidate, neither=found.neither)
    assert newcombe_interval(turned, z=Z_TWO_SIDED_95) == pytest.approx((-high, -low), abs=1e-9)


@given(candidate=st.integers(5, 40), incumbent=st.integers(5, 40))
@settings(max_examples=15)
def test_the_interval_is_close_to_a_bootstrap_where_one_is_sound(candidate: int, incumbent: int) -> None:
    found = Pairs(both=800, candidate=candidate, incumbent=incumbent, neither=100)
    generator = np.random.Generator(np.random.Philox(1))
    shares = np.array([candidate, incumbent, found.n - candidate - incumbent]) / found.n
    drawn = generator.multinomial(found.n, shares, 4000)
    expected = np.quantile((drawn[:, 0] - drawn[:, 1]) / found.n, [0.025, 0.975])
    assert newcombe_interval(found, z=Z_TWO_SIDED_95) == pytest.approx(tuple(expected), abs=0.004)


def test_no_sample_is_no_verdict() -> None:
    nothing = Pairs(both=0, candidate=0, incumbent=0, neither=0)
    assert np.isnan(nothing.difference)
    assert np.isnan(newcombe_interval(nothing, z=1.0)).all()


def test_pairs_count_what_each_got_right() -> None:
    ours, theirs = np.array([True, True, False, False, True]), np.array([True, False, True, False, True])
    assert pairs(ours, theirs) == Pairs(both=2, candidate=1, incumbent=1, neither=1)


def test_the_interval_of_a_mean_is_students() -> None:
    differences = np.array([0.01, 0.02, 0.0, 0.015, 0.005])
    mean, low, high = mean_interval_95(differences)
    expected = student_t.interval(0.95, 4, loc=differences.mean(), scale=differences.std(ddof=1) / np.sqrt(5))
    assert (mean, low, high) == pytest.approx((0.01, *expected), abs=1e-5)
    assert np.isnan(mean_interval_95(np.array([0.1]))[1])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("margin", [0.01, 0.05])
def test_so_many_samples_let_identical_answers_pass_and_one_fewer_does_not(share: float, margin: float) -> None:
    def low(n: int) -> float:
        right = round(share * n)
        return newcombe_interval(Pairs(both=right, candidate=0, incumbent=0, neither=n - right), z=Z_ONE_SIDED_95)[0]

    enough = samples_to_tell(share, margin=margin)
    assert enough is not None
    assert low(enough) > -margin >= low(enough - 1)
    assert samples_to_tell(1.0, margin=0.01) == 268
    assert samples_to_tell(share, margin=0.0) is None
