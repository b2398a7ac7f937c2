"""What the source has against the log, against everything that can happen to a file."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.entries import Commit, Open, Quarantine, Record, ShardRef
from pipeline.labels.planning import SUPERSEDED, source_change
from pipeline.labels.state import LogState, fold

NAMES = ("a", "b")
LOOKS = st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=2), min_size=1, max_size=8)
"""Looks at a folder: name -> version."""


def recorded(state: LogState, *entries) -> LogState:
    opens = [] if state.log else [Open(holder="w", classes=("x", "y"))]
    return fold(state, Record(term=1, nonce="n", at_unix_s=0.0, entries=(*opens, *entries)))


def labelled(start: int, stop: int) -> Commit:
    shard = ShardRef(key=f"shards/{start}", rows=stop - start, bytes=1, crc32=1)
    return Commit(start=start, stop=stop, shard=shard, teacher="t", teacher_s=0.0)


def there(**versions: int) -> list[tuple[str, str, int]]:
    return [(f"{name}@{version}", name, 4 + version) for name, version in versions.items()]


def planned_of(state: LogState, parts: list[tuple[str, str, int]]) -> LogState:
    change = source_change(state, parts, unit_rows=4)
    return recorded(state, *change.superseded, *change.new)


def test_a_part_that_changed_before_any_of_it_was_labelled_is_set_aside_and_planned_as_it_is_now():
    state = planned_of(LogState(), there(a=1, b=1))
    change = source_change(state, there(a=2, b=1), unit_rows=4)
    assert change.superseded == (Quarantine(start=0, stop=5, reason=SUPERSEDED),)
    assert [(plan.part, plan.first, plan.rows) for plan in change.new] == [("a@2", 10, 6)]
    assert change.vanished == ()


def test_committed_rows_of_a_part_that_changed_stay():
    state = recorded(planned_of(LogState(), there(a=1)), labelled(1, 3))
    assert [(rows.start, rows.stop) for rows in source_change(state, there(a=2), unit_rows=4).superseded] == [(0, 1), (3, 5)]
    done = recorded(planned_of(LogState(), there(a=1)), labelled(0, 5))
    assert source_change(done, there(a=2), unit_rows=4).superseded == ()


def test_a_part_that_is_gone_without_a_successor_is_not_set_aside():
    state = recorded(planned_of(LogState(), there(a=1)), labelled(0, 2))
    change = source_change(state, there(b=1), unit_rows=4)
    assert (change.vanished, change.superseded) == ((("a", 3),), ())


def test_of_parts_that_share_a_name_none_takes_the_place_of_another():
    pieces = [(f"piece {number}", "feed", 4) for number in range(3)]
    change = source_change(planned_of(LogState(), pieces), pieces[1:], unit_rows=4)
    assert (change.vanished, change.superseded) == ((("feed", 4),), ())


def test_a_part_that_comes_back_as_it_was_is_planned_again_only_if_none_of_it_is_labelled():
    state = planned_of(planned_of(LogState(), there(a=1)), there(a=2))
    assert [(plan.part, plan.first) for plan in source_change(state, there(a=1), unit_rows=4).new] == [("a@1", 11)]
    assert source_change(state, there(a=2), unit_rows=4).new == ()
    state = recorded(planned_of(LogState(), there(a=1)), labelled(0, 2))
    state = planned_of(state, there(a=2))
    assert source_change(state, there(a=1), unit_rows=4).new == (), "its rows would be there twice"


def test_with_what_was_shown_nothing_else_is_new():
    change = source_change(LogState(), there(a=1, b=1), unit_rows=4, shown={"b@1"})
    assert [(plan.part, plan.first) for plan in change.new] == [("b@1", 0)]


@given(looks=LOOKS)
def test_whatever_happens_to_files_what_is_there_is_planned_once_and_open_and_planning_again_changes_nothing(looks):
    state = LogState()
    for look in looks:
        parts = there(**look)
        state = planned_of(state, parts)
        again = source_change(state, parts, unit_rows=4)
        assert (again.new, again.superseded) == ((), ())
        for part, _, rows in parts:
            wanted = [plan for plan in state.plans if plan.part == part]
            left = [run for plan in wanted for run in state.done.missing_from(plan.first, plan.first + plan.rows)]
            assert sum(stop - start for start, stop in left) == rows
        assert state.rows_left == sum(rows for _, _, rows in parts) + sum(rows for _, rows in again.vanished)
