"""Sets of rows, shared sequences and the row space: pure, so checked against the obvious slow way."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.entries import Plan
from pipeline.labels.history import History
from pipeline.labels.intervals import Intervals
from pipeline.labels.rowspace import plan_of, planned, transposed, units_left

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def rows_of(runs) -> set[int]:
    return {row for start, stop in runs for row in range(start, stop)}


@given(first=RUNS, second=RUNS)
def test_intervals_are_sets_of_rows(first, second):
    ours = Intervals(first).union(Intervals(second))
    rows = rows_of(first) | rows_of(second)
    assert rows_of(ours) == rows
    assert ours.rows == len(rows)
    assert ours == Intervals([(row, row + 1) for row in rows])
    runs = list(ours)
    assert all(before[1] < after[0] for before, after in pairwise(runs)), "runs are disjoint and never touch"


@given(runs=RUNS, start=st.integers(0, 60), length=st.integers(0, 30))
def test_what_is_missing_from_a_range_is_what_the_set_does_not_have(runs, start, length):
    ours, rows = Intervals(runs), rows_of(runs)
    wanted = set(range(start, start + length))
    missing = ours.missing_from(start, start + length)
    assert rows_of(missing) == wanted - rows
    assert missing == sorted(missing)
    assert ours.overlaps(start, start + length) == bool(wanted & rows)
    asked = np.arange(70, dtype=np.int64)
    assert set(asked[ours.mask(asked)].tolist()) == rows


def test_an_extended_sequence_leaves_the_shorter_one_alone():
    base = History([1, 2])
    longer = base.extended([3])
    fork = base.extended([4, 5])
    assert (list(base), list(longer), list(fork)) == ([1, 2], [1, 2, 3], [1, 2, 4, 5])
    assert longer[-1] == 3
    assert base[1:] == [2]
    assert list(longer.extended([9])) == [1, 2, 3, 9]


@given(rows=st.integers(1, 400), stride=st.integers(1, 500))
def test_every_row_of_a_part_has_one_place_whatever_the_stride(rows, stride):
    assert sorted(transposed(np.arange(rows), rows=rows, stride=stride).tolist()) == list(range(rows))


def test_a_unit_of_a_part_that_is_sorted_by_class_has_all_classes():
    (plan,) = planned([("a", "a", 1000)], known=[], unit_rows=100)
    unit = transposed(np.arange(100), rows=plan.rows, stride=plan.stride)
    assert np.bincount(unit // 250).tolist() == [25, 25, 25, 25]


def test_known_parts_keep_their_rows_and_new_ones_go_behind():
    first = planned([("a", "A", 10), ("b", "B", 0)], known=[], unit_rows=4)
    more = planned([("c", "C", 5), ("a", "A", 10), ("c", "C again", 5)], known=first, unit_rows=9)
    assert [(plan.part, plan.first, plan.rows) for plan in [*first, *more]] == [("a", 0, 10), ("b", 10, 0), ("c", 10, 5)]
    assert plan_of([*first, *more], 9).part == "a"
    assert plan_of([*first, *more], 10).part == "c"


@given(sizes=st.lists(st.integers(0, 40), max_size=5), done=RUNS, unit_rows=st.integers(1, 15))
def test_units_are_the_planned_rows_that_are_not_done_and_stay_within_parts(sizes, done, unit_rows):
    plans = planned([(str(part), str(part), rows) for part, rows in enumerate(sizes)], known=[], unit_rows=unit_rows)
    units = list(units_left(plans, Intervals(done), unit_rows=unit_rows))
    assert sum(stop - start for start, stop in units) == len(rows_of(units))
    assert rows_of(units) == set(range(sum(sizes))) - rows_of(done)
    assert all(0 < stop - start <= unit_rows for start, stop in units)
    assert all(plan_of(plans, start) == plan_of(plans, stop - 1) for start, stop in units)


def test_units_of_a_part_lie_on_a_grid_so_that_a_hole_does_not_shift_the_others():
    plan = Plan(part="a", name="a", first=100, rows=20, stride=4)
    assert list(units_left([plan], Intervals([(103, 104)]), unit_rows=5)) == [(100, 103), (104, 105), (105, 110), (110, 115), (115, 120)]
