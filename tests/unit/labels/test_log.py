"""The log under crashes, lost answers, rivals and damage."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.entries import (
    Commit,
    End,
    Entry,
    LogUnreadableError,
    Open,
    Plan,
    Quarantine,
    QuarantinedRow,
    Record,
    Repair,
    Retry,
    Seal,
    ShardRef,
    record_key,
)
from pipeline.labels.log import FencedError, ForeignClassesError, LogGapError, LogReader, LogWriter
from pipeline.labels.quarantine import in_force
from pipeline.labels.state import LogState, fold
from pipeline.labels.verify import TeacherCost, teacher_cost
from tests.kit.stores import Crash, MemoryStore

CLASSES = ("ham", "spam")


def writer_of(store: MemoryStore, name: str = "w", classes=CLASSES) -> LogWriter:
    return LogWriter.open(store, holder=name, classes=classes, nonce=f"nonce of {name}", now_unix_s=1.0)


def plan(first: int, rows: int = 10, part: str = "") -> Plan:
    return Plan(part=part or f"part at {first}", name="part", first=first, rows=rows, stride=1)


def commit(start: int, stop: int, *, teacher: str = "t", bad: tuple[int, ...] = ()) -> Commit:
    shard = ShardRef(key=f"shards/{start}-{stop}", rows=stop - start - len(bad), bytes=10, crc32=1)
    quarantined = tuple(QuarantinedRow(row=row, reason="bad") for row in bad)
    return Commit(start=start, stop=stop, shard=shard, quarantined=quarantined, teacher=teacher, teacher_s=0.1)


def write(writer: LogWriter, *entries) -> LogState:
    writer.queue(entries)
    return writer.flush(now_unix_s=2.0)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_what_is_written_is_what_is_read(store):
    writer = writer_of(store)
    written = write(writer, plan(0), commit(0, 5), Seal(window=0, first_commit=0, stop_commit=1, rows=5))
    assert write(writer, commit(5, 10, bad=(7,)), Quarantine(start=7, stop=8, reason="again")) == LogReader(store).refresh()
    state = LogReader(store).refresh()
    assert written.rows_left == 5
    assert (state.rows_planned, state.rows_labelled, state.rows_quarantined, state.rows_left) == (10, 9, 1, 0)
    assert (state.log, state.term, state.holder, state.classes) == ("nonce of w", 1, "w", CLASSES)


def test_a_reader_follows_the_tail_record_by_record(store):
    writer, reader = writer_of(store), LogReader(store)
    seen = [len(reader.refresh().plans)]
    for number in range(3):
        write(writer, plan(10 * number))
        seen.append(len(reader.refresh().plans))
    assert seen == [0, 1, 2, 3]
    assert reader.refresh() is reader.refresh()


def test_a_newer_writer_fences_the_older_for_ever(store):
    older = writer_of(store, "older")
    write(older, plan(0))
    newer = writer_of(store, "newer")
    older.queue([commit(0, 5)])
    for _ in range(2):
        with pytest.raises(FencedError, match=r"now written by newer \(term 2\).*\(term 1\)"):
            older.flush(now_unix_s=3.0)
    assert write(newer, commit(0, 10)).rows_labelled == 10
    assert LogReader(store).refresh().rows_labelled == 10


def test_an_older_writer_that_slept_through_many_terms_is_fenced_too(store):
    older = writer_of(store, "older")
    for name in ("b", "c"):
        write(writer_of(store, name), plan(10 * len(LogReader(store).refresh().plans)))
    older.queue([plan(0)])
    with pytest.raises(FencedError):
        older.flush(now_unix_s=3.0)


def test_a_lost_answer_is_recognised_as_the_writers_own_record(store):
    writer = writer_of(store)
    writer.queue([plan(0)])
    store.lose_response("put_if_absent log/")
    with pytest.raises(ConnectionError):
        writer.flush(now_unix_s=2.0)
    writer.queue([plan(10)])
    state = writer.flush(now_unix_s=3.0)
    assert [entry.first for entry in state.plans] == [0, 10]
    assert LogReader(store).refresh() == state
    assert state.next_seq == 3


def test_a_put_that_failed_is_put_again(store):
    writer = writer_of(store)
    store.fail("put_if_absent log/", OSError("no route"))
    writer.queue([plan(0)])
    with pytest.raises(OSError, match="no route"):
        writer.flush(now_unix_s=2.0)
    assert writer.queued == 1
    assert writer.flush(now_unix_s=2.0) == LogReader(store).refresh()
    assert len(writer.state.plans) == 1


def test_a_writer_whose_answer_was_lost_and_who_was_fenced_meanwhile_is_fenced(store):
    older = writer_of(store, "older")
    older.queue([plan(0)])
    store.lose_response("put_if_absent log/")
    with pytest.raises(ConnectionError):
        older.flush(now_unix_s=2.0)
    writer_of(store, "newer")
    older.queue([plan(10)])
    with pytest.raises(FencedError):
        older.flush(now_unix_s=3.0)
    assert [entry.first for entry in LogReader(store).refresh().plans] == [0]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_leaves_a_log_that_the_next_writer_continues(number, after):
    store = MemoryStore()
    store.crash_at(number, after=after)
    durable = 0
    try:
        writer = writer_of(store, "first")
        for step in range(10):
            write(writer, plan(10 * step))
            durable = step + 1
    except Crash:
        store.revive()
    writer = writer_of(store, "second")
    there = len(writer.state.plans)
    assert there in (durable, durable + 1)
    state = write(writer, plan(10 * there))
    assert [entry.first for entry in state.plans] == [10 * step for step in range(there + 1)]
    assert state == LogReader(store).refresh()


@given(turns=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["open", "write", "lose", "fail"])), max_size=30))
def test_rivals_in_any_order_make_one_gapless_log_in_which_terms_only_grow(turns):
    store, wanted = MemoryStore(), 0
    writers: dict[int, LogWriter] = {}
    durable: set[int] = set()
    for who, what in turns:
        if what == "open" or who not in writers:
            writers[who] = LogWriter.open(store, holder=str(who), classes=CLASSES, nonce=f"{who} {wanted}", now_unix_s=0)
            wanted += 1
            continue
        if what != "write":
            (store.lose_response if what == "lose" else lambda step: store.fail(step, ConnectionError()))("put_if_absent log/")
        if not writers[who].queued:
            writers[who].queue([Quarantine(start=wanted, stop=wanted + 1, reason=f"{who}")])
            wanted += 1
        try:
            durable |= {bad.start for bad in writers[who].flush(now_unix_s=0).quarantined}
        except ConnectionError:
            continue
        except FencedError:
            del writers[who]
        finally:
            store.revive()
    records = [json.loads(store.objects[record_key(seq)]) for seq in range(sum(key.startswith("log/0") for key in store.objects))]
    assert [record["term"] for record in records] == sorted(record["term"] for record in records)
    facts = [entry["start"] for record in records for entry in record["entries"] if entry["kind"] == "quarantine"]
    assert len(facts) == len(set(facts)), "a fact was written twice"
    assert durable <= set(facts), "a fact that was said to be durable is gone"
    assert LogReader(store).refresh().rows_quarantined == len(facts)


def test_a_missing_record_is_a_gap_not_the_tail(store):
    writer = writer_of(store)
    for step in range(4):
        write(writer, plan(10 * step))
    writer.write_head()
    del store.objects[record_key(2)]
    with pytest.raises(LogGapError, match=r"log/0+2\.json is missing; expected 5 records"):
        LogReader(store).refresh()


def test_a_log_that_grows_while_it_is_opened_has_no_gap(store):
    writer = writer_of(store)
    real_get = store.get
    grown: list[str] = []

    def get(key: str) -> bytes:
        if key == record_key(1) and not grown:
            grown.append(key)
            try:
                return real_get(key)
            finally:
                write(writer, plan(0))
                writer.write_head()
        return real_get(key)

    store.get = get
    assert LogReader(store).refresh().next_seq == 2
    assert grown


@pytest.mark.parametrize("hint", [b"{", b"[]", b'{"version": 2, "next_seq": 1}', b'{"version": 1, "next_seq": "many"}'])
def test_a_hint_that_is_not_understood_is_refused(store, hint):
    writer_of(store)
    store.put("log/head.json", hint)
    with pytest.raises(LogUnreadableError, match=r"log/head\.json"):
        LogReader(store).refresh()


def test_other_classes_are_refused_before_anything_is_written(store):
    writer_of(store)
    before = dict(store.objects)
    with pytest.raises(ForeignClassesError, match=r"\['ham', 'spam'\]; expected \['a', 'b'\]"):
        writer_of(store, "other", classes=("a", "b"))
    assert store.objects == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "version: input should be 1"),
        ({"entries": [{"kind": "teleport"}]}, "'teleport' found using 'kind' does not match any"),
        ({"surprise": 1}, "surprise: extra inputs are not permitted"),
        ({"entries": [{"kind": "end", "generation": -1}]}, "greater than or equal to 0"),
        ({"entries": [{"kind": "end", "generation": "1"}]}, "valid integer"),
    ],
)
def test_a_record_that_is_not_understood_whole_is_refused(store, change, problem):
    writer_of(store)
    record = {"version": 1, "term": 1, "nonce": "n", "at_unix_s": 0, "entries": []} | change
    store.put(record_key(1), json.dumps(record).encode())
    with pytest.raises(LogUnreadableError, match="(?s)log/0+1.json.*" + problem):
        LogReader(store).refresh()


def test_half_a_record_is_refused(store):
    writer_of(store)
    store.objects[record_key(0)] = store.objects[record_key(0)][:-9]
    with pytest.raises(LogUnreadableError, match="invalid json"):
        LogReader(store).refresh()


def test_a_commit_whose_rows_do_not_add_up_is_refused():
    record = Record(term=1, nonce="n", at_unix_s=0, entries=(Open(holder="h", classes=CLASSES), commit(0, 5)))
    tree = json.loads(record.encode())
    tree["entries"][1]["shard"]["rows"] = 4
    with pytest.raises(LogUnreadableError, match="are not 4 labelled and 0 quarantined"):
        Record.decode(json.dumps(tree).encode(), key="k")


def state_of(*entries) -> LogState:
    first = Record(term=1, nonce="n", at_unix_s=0, entries=(Open(holder="h", classes=CLASSES), *entries))
    return fold(LogState(), Record.decode(first.encode(), key="k"))


def test_of_commits_that_share_a_row_the_first_wins_and_the_other_is_void():
    state = state_of(plan(0), commit(0, 5), commit(4, 8), commit(8, 10), Quarantine(start=0, stop=1, reason="late"))
    assert [(done.start, done.stop) for done in state.commits] == [(0, 5), (8, 10)]
    assert (state.void_commits, state.rows_labelled, state.rows_quarantined, state.rows_left) == (1, 7, 0, 3)


@given(runs=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), max_size=150))
def test_no_row_is_ever_in_two_commits_whatever_was_written(runs):
    state = state_of(plan(0, 300), *(commit(start, start + rows) for start, rows in runs))
    rows = [row for done in state.commits for row in range(done.start, done.stop)]
    assert len(rows) == len(set(rows)) == state.done.rows == state.rows_labelled
    assert len(state.commits) + state.void_commits == len(runs)


@given(cuts=st.lists(st.integers(1, 7), max_size=12))
def test_the_state_does_not_depend_on_how_the_records_were_read(cuts):
    entries: list[Entry] = [
        plan(0, 100),
        *(commit(5 * unit, 5 * unit + 5) for unit in range(20)),
        Seal(window=0, first_commit=0, stop_commit=9, rows=45),
    ]
    records = [Record(term=1, nonce="n", at_unix_s=0, entries=(Open(holder="h", classes=CLASSES),))]
    records += [Record(term=1, nonce="n", at_unix_s=0, entries=(entry,)) for entry in entries]
    stepwise, rest = LogState(), list(records)
    for cut in cuts:
        stepwise, rest = fold(stepwise, *rest[:cut]), rest[cut:]
    assert fold(stepwise, *rest) == fold(LogState(), *records)


@pytest.mark.parametrize(
    "entries",
    [
        [plan(1)],
        [plan(0), plan(9)],
        [Seal(window=0, first_commit=0, stop_commit=1, rows=5)],
        [plan(0), commit(0, 5), Seal(window=1, first_commit=0, stop_commit=1, rows=5)],
        [plan(0), commit(0, 5), Seal(window=0, first_commit=0, stop_commit=0, rows=0)],
        [End(generation=2), End(generation=2)],
        [End(generation=2), End(generation=1)],
        [Open(holder="x", classes=("a", "b"))],
    ],
)
def test_entries_that_contradict_the_log_are_refused(entries):
    with pytest.raises(LogUnreadableError):
        state_of(*entries)


def test_a_record_of_an_older_term_or_a_new_term_without_taking_over_is_refused():
    state = fold(state_of(), Record(term=2, nonce="m", at_unix_s=0, entries=(Open(holder="h", classes=CLASSES),)))
    for term in (1, 3):
        with pytest.raises(LogUnreadableError, match=f"term {term} after term 2"):
            fold(state, Record(term=term, nonce="n", at_unix_s=0, entries=(plan(0),)))


def test_generations_share_out_the_windows():
    seals = [Seal(window=number, first_commit=number, stop_commit=number + 1, rows=5) for number in range(3)]
    state = state_of(
        plan(0, 30), *(commit(5 * n, 5 * n + 5) for n in range(3)), seals[0], seals[1], End(generation=1), seals[2], End(generation=4)
    )
    assert state.ends == {1: 2, 4: 3}
    assert [state.first_window(generation) for generation in (1, 2, 4, 5)] == [0, 2, 2, 3]


def test_a_repaired_shard_takes_the_place_of_the_committed_one():
    done = commit(0, 5)
    by = ShardRef(key="shards/new", rows=5, bytes=11, crc32=2)
    state = state_of(plan(0), done, Repair(shard=done.shard.key, by=by, teacher="t"))
    assert state.shard_of(state.commits[0]) == by


def test_what_a_generation_cost_is_in_the_log_whoever_wrote_it(store):
    def write_at(writer: LogWriter, at_unix_s: float, *entries: Entry) -> None:
        writer.queue(entries)
        writer.flush(now_unix_s=at_unix_s)

    writer = writer_of(store)
    write_at(writer, 10.0, plan(0), commit(0, 4, bad=(1,)))
    writer = writer_of(store, "the next one, after a kill")
    write_at(writer, 20.0, commit(4, 10), Seal(window=0, first_commit=0, stop_commit=2, rows=9))
    write_at(writer, 30.0, End(generation=1))
    write_at(writer, 40.0, plan(10), commit(10, 15))
    repaired = ShardRef(key="shards/again", rows=3, bytes=10, crc32=1)
    write_at(writer, 50.0, Repair(shard="shards/0-4", by=repaired, teacher="t"))
    state = LogReader(store).refresh()
    first = TeacherCost(rows=9, rows_first=3, rows_reused=0, teacher_s=0.2, first_commit_unix_s=10.0, last_commit_unix_s=20.0)
    nothing = TeacherCost(rows=0, rows_first=0, rows_reused=0, teacher_s=0, first_commit_unix_s=None, last_commit_unix_s=None)
    assert teacher_cost(state, 1) == first
    later = TeacherCost(rows=5, rows_first=5, rows_reused=0, teacher_s=0.1, first_commit_unix_s=40.0, last_commit_unix_s=40.0)
    assert teacher_cost(state, 3) == later
    write_at(writer, 60.0, Seal(window=1, first_commit=2, stop_commit=3, rows=5), End(generation=3))
    write_at(writer, 70.0, End(generation=4))
    state = LogReader(store).refresh()
    assert teacher_cost(state, 1) == first
    assert teacher_cost(state, 3).rows == 5
    assert [teacher_cost(state, generation) for generation in (0, 2, 4, 5)] == [nothing] * 4
    assert teacher_cost(LogState(), 1) == nothing


def test_a_retry_frees_what_is_quarantined_and_nothing_else(store):
    writer = writer_of(store)
    write(writer, plan(0), commit(0, 5, bad=(0, 3)), Quarantine(start=5, stop=7, reason="worse"))
    state = write(writer, Retry(start=0, stop=6))
    assert (state.rows_labelled, state.rows_quarantined, state.rows_left) == (3, 1, 6)
    assert list(state.set_aside) == [(6, 7)]
    assert write(writer, commit(1, 2)).void_commits == 1, "a row with a label is never free"
    again = write(writer, commit(0, 1), commit(3, 4, teacher="t2"))
    assert (again.rows_labelled, again.rows_left) == (5, 4)
    assert [again.commit_of(f"shards/{name}", start=0) for name in ("0-5", "0-1")] == [again.commits[0], again.commits[1]]
    assert LogReader(store).refresh() == again


def test_of_a_row_that_was_set_aside_twice_the_newest_reason_counts(store):
    writer = writer_of(store)
    write(writer, plan(0), Quarantine(start=0, stop=5, reason="old"), Retry(start=1, stop=4), Quarantine(start=2, stop=3, reason="new"))
    assert [(rows.start, rows.stop, rows.reason) for rows in in_force(writer.state)] == [(0, 1, "old"), (4, 5, "old"), (2, 3, "new")]
    assert writer.state.rows_left == 10 - 3


ROWS = st.tuples(st.integers(0, 30), st.integers(1, 8))


@given(steps=st.lists(st.tuples(st.sampled_from(["label", "set aside", "retry"]), ROWS), max_size=25))
def test_every_row_is_labelled_or_quarantined_or_left_whatever_is_retried(steps):
    entries, expected = list[Entry](), dict[int, str]()
    for number, (kind, (start, rows)) in enumerate(steps):
        span = range(start, start + rows)
        match kind:
            case "retry":
                entries.append(Retry(start=start, stop=start + rows))
                expected = {row: why for row, why in expected.items() if row not in span or why == "label"}
            case "label":
                entries.append(commit(start, start + rows))
            case _:
                entries.append(Quarantine(start=start, stop=start + rows, reason=str(number)))
        if kind != "retry" and not expected.keys() & set(span):
            expected |= dict.fromkeys(span, "label" if kind == "label" else str(number))
    state = fold(LogState(), Record(term=1, nonce="n", at_unix_s=0, entries=(Open(holder="w", classes=CLASSES), plan(0, 40), *entries)))
    assert {row: rows.reason for rows in in_force(state) for row in range(rows.start, rows.stop)} == {
        row: why for row, why in expected.items() if why != "label"
    }
    assert state.rows_labelled == sum(why == "label" for why in expected.values())
    assert state.rows_left == 40 - len(expected)
    assert state.rows_labelled + state.rows_quarantined == state.done.rows
