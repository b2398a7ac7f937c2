"""Axes: every value has a place within them, and the numbers beside them are round and few."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.plot import WIDTH, fitted, width_of
from pipeline.report.scale import Scale, scale, ticks

values = st.lists(st.floats(-1e9, 1e9).map(lambda v: round(v, 6)), min_size=1, max_size=20)
positive = st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=20)


@given(found=values, zero=st.booleans(), most=st.integers(2, 8))
def test_all_values_lie_within_an_axis_with_one_to_many_ticks(found: list[float], zero: bool, most: int) -> None:
    axis = scale(found, 40.0, 300.0, zero=zero)
    assert all(40 - 1e-6 <= axis(value) <= 300 + 1e-6 for value in found)
    marks = axis.ticks(most)
    assert len(marks) <= most
    assert marks == sorted(set(marks))
    assert all(axis.low - 1e-6 * abs(axis.low) <= mark <= axis.high + 1e-6 * abs(axis.high) for mark in marks)


@given(found=positive, most=st.integers(3, 8))
def test_a_logarithmic_axis_has_its_values_and_few_numbers(found: list[float], most: int) -> None:
    axis = scale(found, 250.0, 20.0, log=True)
    assert all(20 - 1e-6 <= axis(value) <= 250 + 1e-6 for value in found)
    marks = axis.ticks(most)
    assert 1 <= len(marks) <= most
    assert all(axis.low <= mark * (1 + 1e-9) and mark <= axis.high * (1 + 1e-9) for mark in marks)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), most=st.integers(2, 9))
def test_ticks_are_round(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    if len(found) > 1:
        step = found[1] - found[0]
        leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(leading - round_) for round_ in (1, 2, 5, 10)) < 1e-3


def test_equal_values_have_an_axis_too() -> None:
    for found in ([0.0], [5.0, 5.0], [-3.0]):
        axis = scale(found, 0.0, 100.0)
        assert axis.low < found[0] < axis.high
        assert axis.ticks(5)
    assert Scale(low=0, high=10, start=0, stop=100)(5) == 50


@pytest.mark.parametrize("text", ["plain", "W" * 80, "<script>" * 20, "漢字" * 40, "i" * 300, ""])
def test_a_label_fits_its_room_whatever_is_in_it(text: str) -> None:
    shown = fitted(text, WIDTH - 100)
    assert width_of(shown) <= WIDTH - 100 or len(shown) <= 1
    assert shown == text or ("…" in shown and text.startswith(shown.partition("…")[0]))
