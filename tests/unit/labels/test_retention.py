"""Letting labels go: only what the policy names, never what somebody may need, and the log says so first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.entries import Commit, Drop, End, Entry, Floor, LogUnreadableError, Open, Plan, Record, Seal, ShardRef
from pipeline.labels.order import epoch_order
from pipeline.labels.retention import Retention, retired
from pipeline.labels.state import LogState, fold

DAY_S = 24 * 3600.0


def record(*entries: Entry, at_unix_s: float = 0, term: int = 1) -> Record:
    return Record(term=term, nonce="n", at_unix_s=at_unix_s, entries=entries)


def generations(windows: list[int], *, bytes_each: int = 10) -> LogState:
    """One generation a day with so many windows of one shard each, all ended."""
    opened = record(Open(holder="h", classes=("a", "b")), Plan(part="p", name="p", first=0, rows=10 * sum(windows), stride=1))
    state, number = fold(LogState(), opened), 0
    for generation, count in enumerate(windows, start=1):
        for _ in range(count):
            ref = ShardRef(key=f"shards/{number}", rows=10, bytes=bytes_each, crc32=0)
            commit = Commit(start=10 * number, stop=10 * number + 10, shard=ref, teacher="t", teacher_s=1)
            seal = Seal(window=number, first_commit=number, stop_commit=number + 1, rows=10)
            state, number = fold(state, record(commit, seal, at_unix_s=generation * DAY_S)), number + 1
        state = fold(state, record(End(generation=generation)))
    return state


def floor_of(entries) -> int:
    return next((entry.window for entry in entries if isinstance(entry, Floor)), 0)


def test_without_a_policy_everything_stays():
    assert not retired(generations([3, 3, 3]), Retention(), now_unix_s=1e12)


def test_by_age_whole_generations_go():
    state = generations([3, 2, 4])
    policy = Retention(keep_s=1.5 * DAY_S)
    assert [floor_of(retired(state, policy, now_unix_s=day * DAY_S)) for day in (2, 3, 4, 99)] == [0, 3, 5, 5]


def test_by_bytes_the_oldest_windows_go():
    state = generations([3, 2, 4])
    assert [floor_of(retired(state, Retention(keep_bytes=keep), now_unix_s=0)) for keep in (90, 89, 70, 0)] == [0, 1, 2, 5]


def test_a_generation_without_labels_takes_the_last_ones_from_nobody():
    state = generations([3, 4, 0, 0])
    assert floor_of(retired(state, Retention(keep_bytes=0), now_unix_s=0)) == 3
    assert floor_of(retired(state, Retention(keep_s=1), now_unix_s=99 * DAY_S)) == 3


def test_nothing_goes_while_a_generation_is_under_way():
    state = generations([3, 3])
    begun = fold(state, record(Plan(part="q", name="q", first=60, rows=10, stride=1)))
    assert retired(begun, Retention(keep_bytes=0), now_unix_s=0)
    ref = ShardRef(key="shards/x", rows=10, bytes=10, crc32=0)
    begun = fold(begun, record(Commit(start=60, stop=70, shard=ref, teacher="t", teacher_s=1)))
    assert not retired(begun, Retention(keep_bytes=0), now_unix_s=0)


@given(
    windows=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    keep_bytes=st.none() | st.integers(0, 200),
    keep_days=st.none() | st.floats(0.1, 8),
    now_days=st.floats(0, 20),
)
def test_a_prefix_goes_that_spares_the_last_generation_and_asking_again_lets_go_of_no_more(windows, keep_bytes, keep_days, now_days):
    state = generations(windows)
    policy = Retention(keep_bytes=keep_bytes, keep_s=None if keep_days is None else keep_days * DAY_S)
    entries = retired(state, policy, now_unix_s=now_days * DAY_S)
    after = fold(state, record(*entries))
    last = next((count for count in reversed(windows) if count), 0)
    assert after.dropped_windows <= sum(windows) - last, "the last generation that had any keeps its own"
    assert after.dropped_commits == after.dropped_windows, "a window is one shard here"
    assert not retired(after, policy, now_unix_s=now_days * DAY_S)
    assert (after.done, after.rows_left) == (state.done, 0), "what was dropped is not labelled again"
    if keep_bytes is not None and len(list(after.kept_commits())) > last:
        assert sum(commit.shard.bytes for commit in after.kept_commits()) <= keep_bytes


def test_an_older_generations_replays_do_not_change_when_the_floor_rises():
    state = generations([3, 2, 4])
    order = epoch_order(state, generation=3, epoch=1, seed=7)
    after = fold(state, record(*retired(state, Retention(keep_bytes=60), now_unix_s=0)))
    assert epoch_order(after, generation=3, epoch=1, seed=7).windows_W.tolist() == order.windows_W.tolist()
    ref = ShardRef(key="shards/x", rows=10, bytes=10, crc32=0)
    newer = fold(
        after,
        record(
            Plan(part="q", name="q", first=90, rows=10, stride=1),
            Commit(start=90, stop=100, shard=ref, teacher="t", teacher_s=1),
            Seal(window=9, first_commit=9, stop_commit=10, rows=10),
            End(generation=4),
        ),
    )
    assert sorted(epoch_order(newer, generation=4, epoch=1, seed=7).windows_W.tolist()) == [3, 4, 5, 6, 7, 8, 9]
    assert epoch_order(newer, generation=4, epoch=0, seed=7).windows_W.tolist() == [9]


@pytest.mark.parametrize("entry", [Drop(stop_window=2, stop_commit=2, reason="r"), Drop(stop_window=9, stop_commit=9, reason="r")])
def test_dropping_above_the_floor_contradicts_the_log(entry):
    state = fold(generations([3, 3]), record(Floor(window=1)))
    with pytest.raises(LogUnreadableError, match="the floor is 1"):
        fold(state, record(entry))
