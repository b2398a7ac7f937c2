"""Units that are too short to be worth their cost are joined."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LabellingSection, TeacherSection
from pipeline.labels.log import LogReader
from tests.kit.labelling import Bench, MemorySource, assert_exactly_once
from tests.kit.stores import MemoryStore
from workers.labelling.sizing import UNIT_S, UNITS_LEFT, UNITS_SEEN, largest_unit, unit_rows


@given(
    now_rows=st.integers(1, 500), seconds=st.lists(st.floats(0, 1), max_size=20), waiting=st.integers(0, 10**6), teachers=st.integers(0, 9),
    largest=st.integers(1, 5000),
)  # fmt: skip
def test_a_unit_only_grows_and_within_all_bounds(now_rows, seconds, waiting, teachers, largest):
    rows = unit_rows(now_rows, seconds, rows_waiting=waiting, teachers=teachers, largest=largest)
    assert rows >= now_rows
    assert rows % now_rows == 0
    if rows > now_rows:
        assert len(seconds) >= UNITS_SEEN
        assert rows <= largest
        assert rows * sorted(seconds[-UNITS_SEEN:])[UNITS_SEEN // 2 - 1] <= UNIT_S
        assert waiting >= rows * UNITS_LEFT * teachers


def test_a_fast_teacher_gets_long_units_and_a_slow_one_keeps_what_it_has():
    for seconds, expected in ((25e-6, 4000), (1e-3, 64), (10.0, 16)):
        rows = unit_rows(16, [seconds] * UNITS_SEEN, rows_waiting=10**6, teachers=2, largest=10**6)
        assert expected / 2 < rows <= expected


def test_a_unit_stays_within_a_window_and_the_lead():
    teacher = TeacherSection(use="x", workers_max=4)
    assert largest_unit(LabellingSection(unit_rows=128, window_rows=1024), teacher) == 1024
    assert largest_unit(LabellingSection(unit_rows=128, window_rows=10_000), teacher) == 4096
    assert largest_unit(LabellingSection(unit_rows=128, window_rows=1000, lead_max=5000), teacher) == 250


def test_many_short_units_become_few_and_every_row_is_labelled_once():
    store = MemoryStore()
    source = MemorySource({"a": [f"text {row}" for row in range(1500)], "b": [f"more {row}" for row in range(301)]})
    bench = Bench(store, source, unit_rows=2, unit_rows_max=64, window_rows=64)
    assert bench.run().rows_committed == 1801
    state = LogReader(store).refresh()
    assert len(state.commits) < 300
    assert max(commit.shard.rows for commit in state.commits) > 8
    assert_exactly_once(store, source)
