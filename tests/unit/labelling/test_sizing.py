"""Units that are too short to be worth their cost are joined, those that are too large for a shard are divided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LabellingSection, TeacherSection
from pipeline.labels.log import LogReader
from tests.kit.labelling import Bench, MemorySource, assert_exactly_once
from tests.kit.stores import MemoryStore
from workers.labelling import Demand, sizing
from workers.labelling.sizing import SHARD_MAX_BYTES, UNIT_S, UNITS_LEFT, UNITS_SEEN, is_too_large, largest_unit, rows_that_fit, unit_rows


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


@given(rows=st.integers(1, 10_000), row_bytes=st.integers(0, 2 * SHARD_MAX_BYTES))
def test_rows_that_fit_do_and_one_more_would_not(rows, row_bytes):
    fitting = rows_that_fit([row_bytes])
    assert not is_too_large(fitting, fitting * row_bytes)
    if row_bytes:
        assert is_too_large(fitting + 1, (fitting + 1) * row_bytes)
    assert is_too_large(rows, rows * row_bytes) == (rows > fitting)


def test_one_row_of_many_megabytes_among_others_makes_no_short_units_of_the_others():
    assert rows_that_fit([1e3] * 7 + [1e9]) == rows_that_fit([1e3]) > 60_000
    assert rows_that_fit([]) > 10**12


def wide(rows: int, name: str) -> list[str]:
    return [f"{name} {row} ".ljust(1_000, "x") for row in range(rows)]


@pytest.mark.parametrize("unit_rows", [1, 3, 64])
def test_wide_rows_make_short_units_and_every_row_is_asked_about_once(monkeypatch, unit_rows):
    monkeypatch.setattr(sizing, "SHARD_MAX_BYTES", 10_500)
    store, source = MemoryStore(), MemorySource({"a": wide(300, "a"), "b": wide(77, "b")})
    bench = Bench(store, source, unit_rows=unit_rows, unit_rows_max=64, window_rows=64)
    outcome = bench.run()
    assert outcome.teacher_calls == len(bench.teacher.asked) == 377
    assert_exactly_once(store, source)
    commits = LogReader(store).refresh().commits
    assert max(commit.shard.rows for commit in commits) <= 10
    # What was read and not labelled are only the first units of all, before anybody knew.
    assert len(source.reads) <= len(commits) + 4


def test_an_outlier_is_divided_down_to_itself_and_its_neighbours_are_labelled(monkeypatch):
    monkeypatch.setattr(sizing, "SHARD_MAX_BYTES", 10_500)
    texts = [f"text {row}" for row in range(200)]
    texts[70] = "y" * 50_000
    store, source = MemoryStore(), MemorySource({"a": texts})
    bench = Bench(store, source, unit_rows=20)
    assert bench.run().rows_quarantined == 0
    assert_exactly_once(store, source)
    assert sorted(commit.shard.rows for commit in LogReader(store).refresh().commits)[-8:] == [20] * 8


def test_a_repair_of_a_shard_of_rows_that_grew_too_wide_is_not_divided(monkeypatch):
    store, source = MemoryStore(), MemorySource({"a": wide(40, "a")})
    bench = Bench(store, source, unit_rows=20)
    bench.run()
    bad = LogReader(store).refresh().commits[0].shard.key
    store.delete(bad)
    monkeypatch.setattr(sizing, "SHARD_MAX_BYTES", 5_000)
    bench.run(2, demand=lambda: Demand(corrupt=frozenset([bad])))
    assert_exactly_once(store, source, generation=2)
