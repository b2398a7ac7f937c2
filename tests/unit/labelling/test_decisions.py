"""The pure decisions around a crew: how many teachers, bad sample or bad teacher, what becomes a window and when."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.entries import Plan, Quarantine, ShardRef
from pipeline.labels.log import LogReader, LogWriter
from tests.kit.stores import MemoryStore
from workers.labelling.committer import GROUP_COMMIT_S, Committer, first_row, shard_key
from workers.labelling.doubt import Doubt
from workers.labelling.faults import TeacherFailsError
from workers.labelling.pool import PoolRule, PoolView, Pressure, decide

RULE = PoolRule(minimum=1, maximum=4)
BUSY = PoolView(now_s=0, teachers=1, units_waiting=100, units_leased=2, starved=False, lead_used_up=False)


def after(seconds: list[float], view: PoolView, rule: PoolRule = RULE) -> list[int]:
    """Targets at those times, each followed."""
    pressure, targets = Pressure(), []
    for now_s in seconds:
        target, pressure = decide(replace(view, now_s=now_s), rule, pressure)
        view = replace(view, teachers=target)
        targets.append(target)
    return targets


def test_the_pool_starts_at_its_minimum_at_once_and_grows_one_by_one_to_its_maximum():
    assert after([0], replace(BUSY, teachers=0)) == [1]
    assert after([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], BUSY) == [1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]


def test_a_starved_trainer_makes_it_grow_sooner():
    assert after([0, 0.5], replace(BUSY, starved=True)) == [1, 2]


def test_it_shrinks_to_the_minimum_while_the_lead_is_used_up_and_not_at_once():
    view = replace(BUSY, teachers=3, lead_used_up=True)
    assert after([0, 9, 10, 11, 21, 40, 60], view) == [3, 3, 2, 2, 1, 1, 1]


def test_a_pool_on_the_border_does_not_flap():
    pressure, targets = Pressure(), []
    for turn in range(200):
        view = replace(BUSY, now_s=turn * 0.5, teachers=2, lead_used_up=turn % 2 == 0)
        target, pressure = decide(view, RULE, pressure)
        targets.append(target)
    assert set(targets) == {2}


def test_no_more_teachers_than_there_is_work_for():
    assert after([0, 5], replace(BUSY, teachers=0, units_waiting=1, units_leased=0), replace(RULE, minimum=3)) == [1, 1]
    assert after([0], replace(BUSY, teachers=4, units_waiting=0, units_leased=0)) == [0]


@given(
    teachers=st.integers(0, 9), waiting=st.integers(0, 50), leased=st.integers(0, 20), starved=st.booleans(), used_up=st.booleans(),
    minimum=st.integers(1, 4), more=st.integers(0, 4),
)  # fmt: skip
def test_the_pool_stays_within_its_bounds_and_steps_by_one(teachers, waiting, leased, starved, used_up, minimum, more):
    rule = PoolRule(minimum=minimum, maximum=minimum + more)
    view = PoolView(now_s=99, teachers=teachers, units_waiting=waiting, units_leased=leased, starved=starved, lead_used_up=used_up)
    target, _ = decide(view, rule, Pressure(more_since_s=0, fewer_since_s=0))
    assert 0 <= target <= rule.maximum
    assert target > 0 or not waiting + leased
    if minimum <= teachers <= rule.maximum and waiting + leased:
        assert abs(target - teachers) <= 1


def bad(rows: int) -> list[Quarantine]:
    return [Quarantine(start=row, stop=row + 1, reason="no") for row in range(rows)]


def test_failures_are_held_back_until_something_succeeds():
    doubt = Doubt(rows_planned=1000)
    doubt.failed(bad(10), source=False)
    doubt.failed(bad(10), source=False)
    assert len(doubt.settled()) == 20
    assert doubt.settled() == []


def test_many_failures_in_succession_are_the_teachers_and_few_rows_never_are():
    doubt = Doubt(rows_planned=1000)
    for _ in range(9):
        doubt.failed(bad(1), source=False)
    with pytest.raises(TeacherFailsError, match="failed on 10 units"):
        doubt.failed(bad(60), source=False)


def committer_of(store: MemoryStore, *, generation: int = 1, window_rows: int = 40, name: str = "n") -> Committer:
    writer = LogWriter.open(store, holder="test", classes=("a", "b"), nonce=name, now_unix_s=0)
    if not writer.state.plans:
        writer.queue([Plan(part="p", name="p", first=0, rows=1000, stride=1)])
        writer.flush(now_unix_s=0)
    return Committer(store, writer, generation=generation, window_rows=window_rows, now_s=0)


def commit(committer: Committer, number: int, *, now_s: float = 0) -> None:
    shard = ShardRef(key=f"shards/{number}", rows=10, bytes=1, crc32=0)
    committer.commit(10 * number, 10 * number + 10, shard, (), teacher="t", teacher_s=0.5, now_s=now_s)


def windows_of(store: MemoryStore) -> list[int]:
    return [seal.stop_commit - seal.first_commit for seal in LogReader(store).refresh().windows]


def test_windows_begin_with_one_shard_and_double_up_to_their_size():
    committer = committer_of(store := MemoryStore())
    for number in range(16):
        commit(committer, number)
    committer.end(now_s=1, now_unix_s=1)
    assert windows_of(store) == [1, 2, 4, 4, 4, 1]


def test_each_generation_begins_with_small_windows_again():
    committer = committer_of(store := MemoryStore())
    for number in range(7):
        commit(committer, number)
    committer.end(now_s=1, now_unix_s=1)
    following = committer_of(store, generation=2, name="m")
    for number in range(7, 14):
        commit(following, number)
    following.end(now_s=2, now_unix_s=2)
    assert windows_of(store) == [1, 2, 4, 1, 2, 4]


def test_a_run_that_goes_on_seals_what_its_predecessor_left_open():
    committer = committer_of(store := MemoryStore())
    for number in range(5):
        commit(committer, number)
    committer.tick(now_s=1, now_unix_s=1, starved=False, lead_used_up=False)
    assert windows_of(store) == [1, 2]
    later = committer_of(store, name="m")
    commit(later, 5)
    commit(later, 6)
    later.end(now_s=2, now_unix_s=2)
    assert windows_of(store) == [1, 2, 4]


def test_a_starved_student_gets_its_window_300_ms_after_the_first_commit():
    committer = committer_of(store := MemoryStore())
    for number in range(4):
        commit(committer, number, now_s=10)
    for now_s in (10.29, 10.5):
        committer.tick(now_s=now_s, now_unix_s=0, starved=True, lead_used_up=False)
    assert windows_of(store) == [1, 2, 1]


def test_the_log_gets_at_most_one_record_every_200_ms_and_the_first_at_once():
    committer = committer_of(store := MemoryStore())
    before = LogReader(store).refresh().next_seq
    records = []
    for step in range(100):
        commit(committer, step, now_s=step * 0.01)
        committer.tick(now_s=step * 0.01, now_unix_s=0, starved=False, lead_used_up=False)
        records.append(LogReader(store).refresh().next_seq - before)
    assert records[0] == 1
    assert records[-1] == 1 + int(0.99 / GROUP_COMMIT_S + 1e-9)


def test_the_end_of_a_generation_is_written_once():
    committer = committer_of(store := MemoryStore())
    for turn in range(3):
        committer.end(now_s=turn, now_unix_s=turn)
    assert LogReader(store).refresh().ends == {1: 0}
    before = LogReader(store).refresh().next_seq
    committer.end(now_s=9, now_unix_s=9)
    assert LogReader(store).refresh().next_seq == before


def test_only_attempts_of_older_terms_are_swept():
    committer_of(store := MemoryStore())
    committer = committer_of(store, name="m")
    old, own, foreign = shard_key(0, 10, term=1, attempt=3), shard_key(0, 10, term=2, attempt=3), "shards/notes.txt"
    assert [first_row(key) for key in (shard_key(20, 10**13, term=12, attempt=11), foreign)] == [20, None]
    for key in (old, own, foreign):
        store.put(key, b"")
    assert committer.sweep(now_unix_s=0) == 1
    assert set(store.list("shards/")) == {own, foreign}


def test_a_sweep_looks_at_no_term_twice():
    committer_of(store := MemoryStore()).sweep(now_unix_s=0)
    for name in "mno":
        committer = committer_of(store, name=name)
    store.steps.clear()
    assert committer.sweep(now_unix_s=0) == 0
    assert [step for step in store.steps if step.startswith("list")] == [f"list shards/{term:08d}/" for term in (1, 2, 3)]
    committer = committer_of(store, name="p")
    store.steps.clear()
    committer.sweep(now_unix_s=0)
    assert [step for step in store.steps if step.startswith("list")] == ["list shards/00000004/"]
