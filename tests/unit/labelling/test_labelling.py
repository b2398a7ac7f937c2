"""Labelling from plan to end, without Ray: exactly once, whatever fails."""

import contextlib
import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import SourceSection
from pipeline.labels.entries import record_key
from pipeline.labels.log import HEAD_KEY, FencedError, LogReader, LogWriter
from pipeline.labels.quarantine import SUPERSEDED
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.store import StoreFullError
from pipeline.labels.verify import teacher_cost, verify
from pipeline.labels.windows import WindowDroppedError
from pipeline.sources import SourceSpec
from pipeline.teachers.checked import CheckedTeacher
from tests.kit.labelling import CLASSES, Bench, MemorySource, MemoryTeacher, assert_exactly_once, read_epoch
from tests.kit.stores import Crash, MemoryStore
from workers.labelling import Demand, Labelling, LabellingOutcome
from workers.labelling.faults import PartVanishedError, SourceFailsError, StoreWriteError, TeacherChangedError, TeacherFailsError
from workers.labelling.retrying import retry


def texts(count: int, word: str = "text") -> list[str]:
    return [f"{word} {number}" for number in range(count)]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def bench_of(store: MemoryStore, *, rows: int = 50, **options) -> Bench:
    return Bench(store, MemorySource({"a": texts(rows), "b": texts(11, "more")}), **options)


def label(labelling: Labelling) -> LabellingOutcome:
    """Without planning."""
    return labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())


def repair(labelling: Labelling, *shards: str) -> LabellingOutcome:
    return labelling.repair(frozenset(shards), progress=lambda _: None, stop=threading.Event())


def stopped_bench(store: MemoryStore, **options) -> Bench:
    """Some rows are labelled, some are not, and the generation is open."""
    bench = bench_of(store, **options)
    stop = threading.Event()
    bench.run(stop=stop, on_progress=lambda now: stop.set() if now.rows_committed >= 8 else None)
    return bench


def test_every_planned_row_is_labelled_once(store):
    bench = bench_of(store)
    outcome = bench.run()
    assert outcome.ended
    assert (outcome.rows_planned, outcome.rows_committed, outcome.teacher_calls) == (61, 61, 61)
    assert len(bench.teacher.asked) == 61
    assert_exactly_once(store, bench.source)


def test_a_finished_generation_asks_the_teacher_nothing_starts_nobody_and_writes_nothing(store):
    bench = bench_of(store)
    bench.run()
    before = dict(store.objects)
    outcome = bench.run()
    assert outcome.ended
    assert (outcome.rows_committed, outcome.teacher_calls, outcome.actors) == (61, 0, 0)
    assert len(bench.crews) == 1
    assert store.objects == before


def test_the_next_generation_labels_only_what_is_new(store):
    bench = bench_of(store)
    bench.run()
    bench.source.texts["c"] = texts(9, "new")
    summary = bench.labelling(1).plan()
    assert summary.ended
    assert (summary.rows_new, summary.rows_left) == (9, 0)
    outcome = bench.run(2)
    assert outcome.teacher_calls == 9
    assert_exactly_once(store, bench.source, generation=2)
    live, _ = read_epoch(reader := LabelReader(store, generation=2, batch=4, seed=1), reader.start())
    assert sorted(live) == sorted(f"c:{row}" for row in range(9))


def test_a_generation_without_new_rows_ends_once_and_has_an_empty_live_pass(store):
    bench = bench_of(store)
    bench.run(1)
    bench.run(2)
    before = dict(store.objects)
    assert bench.run(2).ended
    assert store.objects == before
    assert len(bench.crews) == 1
    ends = LogReader(store).refresh().ends
    assert ends[1] == ends[2] > 0
    assert read_epoch(reader := LabelReader(store, generation=2, batch=4, seed=1), reader.start())[0] == []


def test_an_empty_source_is_a_generation_without_windows(store):
    bench = Bench(store, MemorySource({"nothing": []}))
    assert bench.run().ended
    assert bench.crews == []
    reader = LabelReader(store, generation=1, batch=4, seed=1)
    assert read_epoch(reader, reader.start())[0] == []


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_loses_and_doubles_nothing(after):
    number = 0
    while True:
        store = MemoryStore()
        bench = Bench(store, MemorySource({"a": [*texts(20), "poison", "unparseable"], "b": texts(5, "more")}), window_rows=8)
        store.crash_at(number, after=after)
        try:
            bench.run()
        except Crash:
            store.revive()
            bench.run()
            assert_exactly_once(store, bench.source)
            number += 1
        else:
            break
    assert number > 10


def test_crashes_upon_crashes_lose_and_double_nothing(store):
    bench = bench_of(store, rows=30)
    for number in range(1, 60):
        store.revive()
        store.crash_at(number % 9, after=number % 2 == 0)
        try:
            bench.run()
            break
        except Crash:
            continue
    store.revive()
    bench.run()
    assert_exactly_once(store, bench.source)


def test_lost_answers_to_log_writes_lose_and_double_nothing(store):
    bench = bench_of(store)
    labelling = bench.labelling()
    labelling.plan()
    for skip in (0, 1, 3, 4):
        store.lose_response("put_if_absent log/", skip=skip)
    outcome = labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())
    assert (outcome.ended, outcome.teacher_calls) == (True, 61)
    assert_exactly_once(store, bench.source)


def test_a_store_that_takes_no_log_record_any_more_ends_the_run(store):
    bench = bench_of(store)
    labelling = bench.labelling()
    labelling.plan()
    for _ in range(10):
        store.fail("put_if_absent log/", OSError(5, "Input/output error"))
    with pytest.raises(StoreWriteError, match=r"failed 5 times.*Input/output error"):
        labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())
    store.revive()
    bench.run()
    assert_exactly_once(store, bench.source)


def test_the_same_object_goes_on_after_it_failed_with_work_it_could_not_write(store):
    bench = bench_of(store)
    labelling = bench.labelling()
    labelling.plan()
    for _ in range(6):
        store.fail("put_if_absent log/", OSError(5, "Input/output error"), skip=2)
    with pytest.raises(StoreWriteError):
        labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())
    store.revive()
    outcome = labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())
    assert outcome.ended
    assert len(bench.teacher.asked) == 61, "what was labelled and not yet written is not asked again"
    assert_exactly_once(store, bench.source)


def test_a_store_that_takes_no_shard_any_more_ends_the_run(store):
    bench = bench_of(store)
    for _ in range(10):
        store.fail("put_if_absent shards/", OSError(5, "Input/output error"))
    with pytest.raises(StoreWriteError, match=r"failed 5 times.*Input/output error"):
        bench.run()
    store.revive()
    bench.run()
    assert_exactly_once(store, bench.source)


def test_no_shard_is_ever_put_where_another_was_whatever_is_tried_again(store):
    bench = bench_of(store)
    labelling = bench.labelling()
    labelling.plan()
    for skip in range(3):
        store.lose_response("put_if_absent shards/", skip=2 * skip)
    stop = threading.Event()
    labelling.run(demand=Demand, progress=lambda now: stop.set() if now.rows_committed >= 20 else None, stop=stop)
    label(labelling)  # the same term, with a ledger that begins anew
    bad = [commit.shard.key for commit in LogReader(store).refresh().commits[:2]]
    for key in bad:
        store.flip_bit(key, at=9)
    store.lose_response("put_if_absent shards/")
    repair(labelling, *bad)
    repairs = [ref.key for ref in LogReader(store).refresh().repairs.values()]
    for key in repairs:
        store.flip_bit(key, at=9)
    assert len(repair(labelling, *bad).repaired) == 2
    puts = [step for step in store.steps if step.startswith("put_if_absent shards/")]
    assert len(puts) == len(set(puts))
    assert not [step for step in store.steps if step.startswith("put shards/")]
    assert_exactly_once(store, bench.source)


def test_a_shard_that_lies_in_the_way_is_left_alone_and_the_unit_tried_again(store):
    bench = bench_of(store)
    labelling = bench.labelling()
    labelling.plan()
    foreign = [f"shards/00000001/{start:012d}-{start + 4:012d}-{attempt}.arrow" for start in range(0, 60, 4) for attempt in range(2)]
    for key in foreign:
        store.objects[key] = b"somebody else's"
    label(labelling)
    assert {store.objects[key] for key in foreign} == {b"somebody else's"}
    assert_exactly_once(store, bench.source)


def test_a_shard_that_is_not_in_the_store_is_never_committed(store):
    bench = bench_of(store)
    real_put = store.put_if_absent
    forgotten: list[str] = []

    def put(key: str, data: bytes) -> bool:
        if key.startswith("shards/") and len(forgotten) < 2:
            forgotten.append(key)
            return True
        return real_put(key, data)

    store.put_if_absent = put
    bench.run()
    assert not set(forgotten) & {commit.shard.key for commit in LogReader(store).refresh().commits}
    assert_exactly_once(store, bench.source)


def test_a_row_at_which_the_teacher_raises_is_quarantined_with_the_reason_and_the_run_goes_on(store):
    bench = Bench(store, MemorySource({"a": [*texts(30), "poison", *texts(10, "later")]}), unit_rows=8)
    outcome = bench.run()
    assert (outcome.rows_committed, outcome.rows_quarantined) == (40, 1)
    (bad,) = LogReader(store).refresh().quarantined
    assert "ValueError: the teacher chokes" in bad.reason
    assert_exactly_once(store, bench.source)


def test_rows_without_input_and_answers_that_are_nan_are_quarantined(store):
    bench = Bench(store, MemorySource({"a": [*texts(30), "unparseable", "nan"]}))
    assert bench.run().rows_quarantined == 2
    assert sorted(bad.reason for bad in LogReader(store).refresh().quarantined) == ["not UTF-8", "the teacher answered NaN"]
    assert not any("unparseable" in text for text in bench.teacher.asked)
    assert_exactly_once(store, bench.source)


def test_the_only_new_row_being_bad_ends_the_generation_all_the_same(store):
    bench = bench_of(store)
    bench.run()
    bench.source.texts["c"] = ["poison"]
    assert bench.run(2).rows_quarantined == 1
    assert_exactly_once(store, bench.source, generation=2)


def test_a_teacher_that_answers_nothing_stops_the_run_and_quarantines_nothing(store):
    bench = Bench(store, MemorySource({"a": texts(60, "poison")}))
    with pytest.raises(TeacherFailsError, match="the teacher chokes"):
        bench.run()
    state = LogReader(store).refresh()
    assert state.rows_quarantined == 0
    bench.source.texts["a"] = texts(60)
    assert bench.run().rows_committed == 60


class WrongShape:
    """Says three classes where two are asked for, after so many calls of the right shape."""

    classes = CLASSES
    fingerprint = "teacher-1"

    def __init__(self, *, after: int = 0) -> None:
        self._right, self._after, self.calls = MemoryTeacher(), after, 0

    def log_probs(self, inputs):
        self.calls += 1
        if self.calls <= self._after:
            return self._right.log_probs(inputs)
        return np.log(np.full((len(inputs), 3), 1 / 3))


def test_a_teacher_of_the_wrong_shape_stops_the_run_and_nothing_is_written_or_set_aside(store):
    bench = bench_of(store)
    right, bench.teacher = bench.teacher, CheckedTeacher(WrongShape(), name="wrong", classes=CLASSES)  # type: ignore[assignment]
    with pytest.raises(
        TeacherFailsError, match=r"TeacherOutputError: teacher wrong: float64 of shape \(1, 3\); expected floats of shape \(1, 2\)"
    ):
        bench.run()
    state = LogReader(store).refresh()
    assert (state.rows_labelled, state.rows_quarantined, state.ends) == (0, 0, {})
    assert not [key for key in store.objects if key.startswith("shards/")]
    bench.teacher = right
    assert bench.run().rows_committed == 61
    assert_exactly_once(store, bench.source)


def test_a_teacher_whose_shape_goes_wrong_on_the_way_stops_the_run_and_what_it_said_before_is_kept(store):
    bench = bench_of(store)
    wrong = WrongShape(after=8)
    right, bench.teacher = bench.teacher, CheckedTeacher(wrong, name="wrong", classes=CLASSES)  # type: ignore[assignment]
    with pytest.raises(TeacherFailsError, match="TeacherOutputError"):
        bench.run()
    state = LogReader(store).refresh()
    assert 0 < state.rows_labelled < 61
    assert state.rows_quarantined == 0
    bench.teacher = right
    assert bench.run().rows_committed == 61
    assert len(right.asked) == 61 - state.rows_labelled, "what was right is not asked again"
    assert_exactly_once(store, bench.source)


def test_a_source_that_cannot_be_read_stops_the_run_and_quarantines_nothing(store):
    bench = bench_of(store)
    bench.source.read_error = OSError("stale file handle")
    with pytest.raises(SourceFailsError, match="stale file handle"):
        bench.run()
    assert LogReader(store).refresh().rows_quarantined == 0
    bench.source.read_error = None
    assert bench.run().rows_committed == 61


def test_a_row_that_kills_its_process_is_found_by_halving_and_quarantined_alone(store):
    bench = Bench(store, MemorySource({"a": [*texts(29), "kill", *texts(10, "later")]}), unit_rows=8)
    outcome = bench.run()
    assert (outcome.rows_committed, outcome.rows_quarantined) == (39, 1)
    assert bench.crews[0].killed_rows == [8, 8, 4, 2, 1]
    assert_exactly_once(store, bench.source)


def test_a_teacher_that_hangs_is_ended_when_its_lease_runs_out(store):
    bench = Bench(store, MemorySource({"a": [*texts(29), "hang"]}), lease_s=3.0)
    outcome = bench.run()
    assert (outcome.rows_committed, outcome.rows_quarantined) == (29, 1)
    assert bench.crews[0].restarted >= 2
    (bad,) = LogReader(store).refresh().quarantined
    assert bad.reason == "the teacher did not answer within 3 s"
    assert_exactly_once(store, bench.source)


def test_a_vanished_part_is_an_error_that_names_it_only_if_its_rows_are_needed(store):
    bench = bench_of(store)
    stop = threading.Event()
    bench.run(stop=stop, on_progress=lambda now: stop.set() if now.rows_committed else None)
    rest = bench.source.texts.pop("a")
    with pytest.raises(PartVanishedError, match=r"^a \(\d+ rows\): gone or changed, with planned rows"):
        bench.labelling().plan()
    bench.source.texts["a"] = rest
    bench.run()
    del bench.source.texts["a"]
    bench.source.texts["c"] = texts(3)
    assert bench.run(2).rows_committed == 64


def test_all_parts_that_vanished_are_named_up_to_a_bound(store):
    bench = Bench(store, MemorySource({f"file-{number}": texts(3) for number in range(8)}))
    bench.labelling().plan()
    for number in range(1, 4):
        del bench.source.texts[f"file-{number}"]
    with pytest.raises(PartVanishedError, match=r"^file-1 \(3 rows\), file-2 \(3 rows\), file-3 \(3 rows\): gone.*put them back") as few:
        bench.labelling().plan()
    assert str(pickle.loads(pickle.dumps(few.value))) == str(few.value)
    bench.source.texts.clear()
    with pytest.raises(PartVanishedError, match=r"^file-0 .*, file-4 \(3 rows\), 3 more \(9 rows\): gone"):
        bench.labelling().plan()


def test_a_part_that_vanishes_while_it_is_labelled_is_named(store):
    bench = bench_of(store)
    with pytest.raises(PartVanishedError, match=r"^a \(\d+ rows\): "):
        bench.run(on_progress=lambda now: bench.source.texts.clear())


def test_a_stopped_run_keeps_what_is_done_and_goes_on_later(store):
    bench = bench_of(store)
    stop = threading.Event()
    outcome = bench.run(stop=stop, on_progress=lambda now: stop.set() if now.rows_committed >= 8 else None)
    assert not outcome.ended
    assert 8 <= outcome.rows_committed < 61
    rest = bench.run()
    assert rest.teacher_calls == 61 - outcome.rows_committed
    assert_exactly_once(store, bench.source)


def test_another_teacher_is_refused_with_both_names_unless_mixing_is_asked_for(store):
    bench = bench_of(store)
    stop = threading.Event()
    bench.run(stop=stop, on_progress=lambda now: stop.set() if now.rows_committed else None)
    bench.teacher.fingerprint = "teacher-2"
    with pytest.raises(TeacherChangedError, match=r"teacher-2; expected teacher-1.*kdpipe clean DIR --labels"):
        bench.run()
    with pytest.raises(TeacherChangedError):
        bench.labelling().check_teacher("teacher-2")
    bench.labelling().check_teacher("teacher-1")
    bench.section = bench.section.model_copy(update={"mixed_teachers": True})
    assert bench.run().ended


def test_low_disk_pauses_says_so_and_goes_on_when_there_is_space(store):
    bench = bench_of(store, free_disk_bytes=100 * 2**20)
    free = iter([200 * 2**20] * 5 + [50 * 2**20] * 40)
    bench.free_bytes = lambda: next(free, 200 * 2**20)
    assert bench.run().rows_committed == 61
    assert any(now.says == "paused: 50 MiB of disk free, below the 100 MiB to keep" for now in bench.progress)
    assert_exactly_once(store, bench.source)


@pytest.mark.parametrize("step", ["put_if_absent shards/", "put_if_absent log/"])
def test_a_full_disk_pauses_and_goes_on_when_there_is_space(store, step):
    bench = bench_of(store)
    labelling = bench.labelling()
    labelling.plan()
    for skip in range(3):
        store.fail(step, StoreFullError("x"), skip=skip + 1)
    assert labelling.run(demand=Demand, progress=bench.progress.append, stop=threading.Event()).rows_committed == 61
    assert any("full" in now.says for now in bench.progress)
    assert_exactly_once(store, bench.source)


def test_labelling_waits_for_the_slowest_student_and_seals_what_it_has(store):
    bench = bench_of(store, rows=200, lead_max=24, window_rows=4)
    consumed = 0
    leads = []

    def demand() -> Demand:
        nonlocal consumed
        state = LogReader(store).refresh()
        sealed = sum(seal.rows for seal in state.windows)
        leads.append(state.rows_labelled - consumed)
        consumed = min(sealed, consumed + 1)
        return Demand(cursors={"slow": consumed, "fast": sealed})

    assert bench.run(demand=demand).rows_committed == 211
    assert max(leads) <= 24 + 2 * 2 * 4
    assert any(now.says.startswith("waiting for the students") for now in bench.progress)
    assert_exactly_once(store, bench.source)


def test_without_a_student_in_training_nothing_is_held_back(store):
    bench = bench_of(store, rows=200, lead_max=24, window_rows=4)
    assert bench.run(demand=lambda: Demand()).rows_committed == 211


def test_a_newer_run_fences_an_older_one(store):
    bench = bench_of(store, rows=100)
    taken: list[LogWriter] = []

    def take_over(now):
        if now.rows_committed and not taken:
            taken.append(LogWriter.open(store, holder="the second", classes=CLASSES, nonce="n2", now_unix_s=0.0))

    with pytest.raises(FencedError, match="now written by the second"):
        bench.run(on_progress=take_over)
    bench.run()
    assert_exactly_once(store, bench.source)


def test_shards_that_nobody_committed_are_swept_by_the_next_run(store):
    bench = bench_of(store)
    store.crash_after("put_if_absent shards/", skip=3)
    with pytest.raises(Crash):
        bench.run()
    store.revive()
    bench.run()
    state = LogReader(store).refresh()
    assert set(store.list("shards/")) == {commit.shard.key for commit in state.commits}


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_corrupt_shard_is_labelled_again_at_the_same_positions(store, damage):
    bench = bench_of(store)
    bench.run()
    reader = LabelReader(store, generation=1, batch=5, seed=1)
    before, _ = read_epoch(reader, reader.start())
    key = LogReader(store).refresh().commits[3].shard.key
    if damage == "flip":
        store.flip_bit(key, at=len(store.objects[key]) // 2)
    elif damage == "truncate":
        store.objects[key] = store.objects[key][:-8]
    else:
        del store.objects[key]
    outcome = bench.run(demand=lambda: Demand(corrupt=frozenset([key, "shards/unknown"])))
    assert outcome.repaired == (key,)
    assert outcome.teacher_calls == LogReader(store).refresh().commits[3].shard.rows
    fresh = LabelReader(store, generation=1, batch=5, seed=1)
    assert read_epoch(fresh, fresh.start())[0] == before
    assert_exactly_once(store, bench.source)


def test_a_shard_that_cannot_be_labelled_again_keeps_its_positions_and_weighs_nothing(store):
    bench = bench_of(store)
    bench.run()
    state = LogReader(store).refresh()
    commit = next(commit for commit in state.commits if commit.start < 50)
    del store.objects[commit.shard.key]
    del bench.source.texts["a"]
    outcome = bench.run(demand=lambda: Demand(corrupt=frozenset([commit.shard.key])))
    assert outcome.rows_forgotten == commit.shard.rows
    reader = LabelReader(store, generation=1, batch=61, seed=1)
    batch = reader.read(reader.start())
    assert isinstance(batch, LabelBatch)
    assert len(batch.sample_ids) == len(set(batch.sample_ids)) == 61
    assert (batch.weight_B == 0).sum() == commit.shard.rows
    assert batch.inputs.null_count == 0


def test_what_came_since_the_plan_is_left_to_the_next_generation(store):
    bench = bench_of(store)
    labelling = bench.labelling()
    labelling.plan()
    bench.source.texts["late"] = texts(9, "late")
    assert label(labelling).rows_planned == 61
    assert not any(text.startswith("late") for text in bench.teacher.asked)
    summary = bench.labelling(2).plan()
    assert (summary.rows_known, summary.rows_new, summary.rows_left) == (61, 9, 9)
    bench.run(2)
    assert_exactly_once(store, bench.source, generation=2)


def test_rows_that_an_earlier_run_planned_are_labelled_without_planning(store):
    bench = stopped_bench(store)
    assert label(bench.labelling()).ended
    assert_exactly_once(store, bench.source)


@pytest.mark.parametrize("ended", [False, True])
def test_a_repair_labels_the_bad_shard_again_and_nothing_else_whether_the_generation_has_ended_or_not(store, ended):
    bench = bench_of(store) if ended else stopped_bench(store)
    if ended:
        bench.run()
    bench.source.texts["new"] = texts(5, "new")
    before = LogReader(store).refresh()
    commit = before.commits[1]
    store.flip_bit(commit.shard.key, at=100)
    bench.teacher.asked.clear()
    outcome = repair(bench.labelling(), commit.shard.key, "shards/unknown")
    after = LogReader(store).refresh()
    assert outcome.repaired == (commit.shard.key,)
    assert outcome.ended == ended
    assert len(bench.teacher.asked) == outcome.teacher_calls == commit.shard.rows
    assert (after.plans, after.commits, after.ends, after.rows_quarantined) == (before.plans, before.commits, before.ends, 0)
    assert list(after.repairs) == [commit.shard.key]
    assert teacher_cost(after, 1) == teacher_cost(before, 1), "a repair is no part of what the generation cost"
    if not ended:
        bench.run()
        assert_exactly_once(store, bench.source)


def test_a_repair_with_nothing_bad_starts_nobody_and_writes_nothing(store):
    bench = stopped_bench(store)
    before, crews = dict(store.objects), len(bench.crews)
    outcome = repair(bench.labelling(), LogReader(store).refresh().commits[0].shard.key)
    assert (outcome.repaired, outcome.ended) == ((), False)
    assert store.objects == before
    assert len(bench.crews) == crews


def test_the_same_object_repairs_and_then_goes_on_labelling(store):
    bench = stopped_bench(store)
    labelling = bench.labelling()
    key = LogReader(store).refresh().commits[0].shard.key
    del store.objects[key]
    assert repair(labelling, key).repaired == (key,)
    assert label(labelling).ended
    assert_exactly_once(store, bench.source)


@pytest.mark.parametrize("number", range(6))
def test_a_crash_in_a_repair_loses_nothing_and_the_repair_can_be_had_again(store, number):
    bench = stopped_bench(store)
    key = LogReader(store).refresh().commits[0].shard.key
    del store.objects[key]
    store.crash_at(number, after=number % 2 == 1)
    try:
        repair(bench.labelling(), key)
    except Crash:
        store.revive()
        repair(bench.labelling(), key)
    store.revive()
    bench.run()
    assert_exactly_once(store, bench.source)


def test_a_preview_that_is_asked_again_reads_only_the_tail_of_the_log(store):
    bench = bench_of(store)
    bench.run()
    watching = bench.labelling(2)
    watching.preview()
    next_seq = LogReader(store).refresh().next_seq
    store.steps.clear()
    for _ in range(3):
        assert watching.preview().rows_left == 0
    assert store.steps == 3 * [f"get {record_key(next_seq)}", f"get {HEAD_KEY}"]
    bench.source.texts["c"] = texts(9, "new")
    assert watching.preview().rows_left == 9


def test_a_planned_part_that_changed_before_it_was_labelled_is_set_aside_and_its_new_content_labelled(store):
    bench = bench_of(store)
    bench.labelling().plan()
    changed = bench.source.replace("a", texts(70, "whole"))
    expected = {"rows_known": 61, "rows_new": 70, "rows_superseded": 50, "rows_left": 81}
    assert expected.items() <= vars(bench.labelling().preview()).items()
    assert expected.items() <= vars(bench.labelling().plan()).items()
    outcome = label(bench.labelling())
    assert (outcome.ended, outcome.rows_committed, outcome.rows_quarantined) == (True, 81, 50)
    assert [(rows.start, rows.stop, rows.reason) for rows in LogReader(store).refresh().quarantined] == [(0, 50, SUPERSEDED)]
    ids, _ = read_epoch(reader := LabelReader(store, generation=1, batch=5, seed=1), reader.start())
    assert sorted(ids) == sorted([f"{changed}:{row}" for row in range(70)] + [f"b:{row}" for row in range(11)])


def test_of_a_part_that_changed_half_labelled_the_labels_stay_and_the_rest_is_set_aside(store):
    bench = stopped_bench(store)
    before = LogReader(store).refresh()
    left_of_a = sum(stop - start for start, stop in before.done.missing_from(0, 50))
    bench.source.replace("a", texts(7, "other"))
    summary = bench.labelling().plan()
    assert summary.rows_superseded == left_of_a > 0
    outcome = label(bench.labelling())
    assert outcome.ended
    assert outcome.rows_quarantined == left_of_a
    assert outcome.rows_committed == 61 - left_of_a + 7
    assert list(LogReader(store).refresh().commits)[: len(before.commits)] == list(before.commits)


def test_a_part_that_changes_while_it_is_labelled_ends_the_run_and_the_next_run_goes_on_without_a_plan(store):
    bench = bench_of(store)

    def change(_now: object) -> None:
        if "a" in bench.source.texts:
            bench.source.replace("a", texts(7, "other"))

    with pytest.raises(PartVanishedError, match=r"^a \(\d+ rows\): gone or changed.*run again to plan what is there now"):
        bench.run(on_progress=change)
    outcome = label(bench.labelling())
    assert outcome.ended
    assert outcome.rows_quarantined > 0
    assert not any(text.startswith("other") for text in bench.teacher.asked), "planning is left to the next plan"
    assert bench.labelling(2).plan().rows_new == 7


def test_a_plan_whose_answer_was_lost_may_be_asked_for_again(store):
    bench = bench_of(store)
    labelling = bench.labelling()
    store.lose_response("put_if_absent log/", skip=1)
    with pytest.raises(ConnectionError):
        labelling.plan()
    assert labelling.plan().rows_left == 61
    assert label(labelling).rows_committed == 61
    assert_exactly_once(store, bench.source)


def test_a_watched_file_is_planned_whole_or_not_at_all(store, tmp_path: Path):
    def write(name: str, rows: int) -> None:
        with (tmp_path / name).open("a") as file:
            file.writelines(json.dumps({"text": f"{name} {row}"}) + "\n" for row in range(rows))

    write("first.jsonl", 3)
    bench = bench_of(store)
    bench.source = SourceSpec(section=SourceSection(path="."), base=tmp_path)  # type: ignore[assignment]
    watching = bench.labelling()
    assert watching.preview().rows_left == 3
    assert watching.plan().rows_left == 3
    write("whole.jsonl", 5)
    assert watching.preview().rows_new == 0, "seen for the first time"
    write("slow.jsonl", 2)
    assert watching.preview().rows_new == 5
    assert watching.plan().rows_new == 5, "the preview did not show the slow one, so it is not known to be at rest"
    write("slow.jsonl", 2)
    assert watching.preview().rows_new == 0
    assert watching.preview().rows_new == 4
    assert watching.plan().rows_left == 3 + 5 + 4


def test_labels_beyond_the_retention_policy_go_when_a_generation_begins_and_are_not_asked_for_again(store):
    bench = bench_of(store, keep_bytes=0)
    bench.run(1)
    first = {commit.shard.key for commit in LogReader(store).refresh().commits}
    bench.source.texts["c"] = texts(20, "second")
    bench.run(2)
    second = {commit.shard.key for commit in LogReader(store).refresh().kept_commits()}
    bench.source.texts["d"] = texts(20, "third")
    asked = len(bench.teacher.asked)
    bench.run(3)
    assert len(bench.teacher.asked) == asked + 20
    assert not first & set(store.objects)
    assert second - first <= set(store.objects), "the last generation's labels stay"
    reader = LabelReader(store, generation=3, batch=5, seed=1)
    ids, _ = read_epoch(reader, replace(reader.start(), epoch=1))
    assert {sample.partition(":")[0] for sample in ids} == {"c", "d"}
    with pytest.raises(WindowDroppedError, match="window 0 was dropped"):
        read_epoch(old := LabelReader(store, generation=1, batch=5, seed=1), old.start())


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_labels_go_leaves_none_behind_and_takes_none_too_many(number, after):
    store = MemoryStore()
    bench = bench_of(store, keep_bytes=0)
    bench.run(1)
    bench.source.texts["c"] = texts(20, "second")
    bench.run(2)
    bench.source.texts["d"] = texts(20, "third")
    store.crash_at(number, after=after)
    with contextlib.suppress(Crash):
        bench.run(3)
    store.revive()
    bench.run(3)
    state = LogReader(store).refresh()
    assert set(store.list("shards/")) == {commit.shard.key for commit in state.kept_commits()}
    assert state.rows_left == 0
    assert state.dropped_windows == state.ends[1]


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_of_a_retry_or_of_what_follows_it_labels_every_row_once(after):
    number, finished = 0, False
    while not finished:
        store = MemoryStore()
        bench = bench_of(store)
        bench.source.texts["a"][::7] = [f"poison {row}" for row in range(len(bench.source.texts["a"][::7]))]
        bench.run()
        first = LogReader(store).refresh()
        assert first.rows_quarantined == 8
        bench.source.texts["a"] = [text.replace("poison", "mended") for text in bench.source.texts["a"]]

        def again(bench: Bench = bench, store: MemoryStore = store) -> None:
            retry(store, bench.source, holder="r", nonce=f"retry {len(store.steps)}", now_unix_s=1.0)
            bench.run(2)

        store.crash_at(number, after=after)
        number += 1
        try:
            again()
            finished = True
        except Crash:
            store.revive()
            again()
        store.revive()
        state = LogReader(store).refresh()
        assert (state.rows_left, state.rows_quarantined, state.void_commits) == (0, 0, 0)
        assert list(state.windows)[: len(first.windows)] == list(first.windows)
        assert_exactly_once(store, bench.source, generation=2)
        assert verify(store).sound
    assert number > 10
