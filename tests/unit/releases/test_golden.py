"""Golden samples: within tolerance, or a reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.releases.golden import golden_misses
from pipeline.releases.manifest import Golden, GoldenTolerance

TOLERANCE = GoldenTolerance(max_probability_difference=0.05, min_agreement=1.0)


def golden(*firsts: float) -> list[Golden]:
    return [Golden(input="x", probabilities=(p, 1 - p)) for p in firsts]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(-0.0249, 0.0249))
def test_answers_within_half_the_tolerance_pass_whichever_class_is_first(firsts: list[float], shift: float) -> None:
    found = np.array([[p + shift, 1 - p - shift] for p in firsts])
    assert golden_misses(golden(*firsts), found, TOLERANCE) is None


def test_one_answer_beyond_tolerance_is_named() -> None:
    found = np.array([[0.1, 0.9], [0.94, 0.06]])
    assert "golden sample 1 is 0.0600 off" in str(golden_misses(golden(0.1, 1.0), found, TOLERANCE))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_no_number_never_passes(bad: float) -> None:
    assert golden_misses(golden(0.5), np.array([[bad, 0.5]]), GoldenTolerance(max_probability_difference=1.0, min_agreement=0.0))


def test_a_wrong_shape_never_passes() -> None:
    assert golden_misses(golden(0.5), np.array([[0.2, 0.3, 0.5]]), TOLERANCE)


def test_a_flip_of_a_close_sample_is_allowed_and_of_a_clear_one_is_not() -> None:
    wide = GoldenTolerance(max_probability_difference=0.4, min_agreement=1.0)
    assert golden_misses(golden(0.51), np.array([[0.49, 0.51]]), wide) is None
    assert "agree" in str(golden_misses(golden(0.75), np.array([[0.4, 0.6]]), wide))
