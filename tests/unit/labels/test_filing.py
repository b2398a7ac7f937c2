"""The tail of a log becomes segments and a manifest: whoever opens it later sees the same facts, whatever crashed in between."""

from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.labels import manifest as manifests
from pipeline.labels.entries import (
    Commit,
    End,
    Entry,
    LogUnreadableError,
    Plan,
    Quarantine,
    Record,
    Reinstate,
    Repair,
    Retry,
    Seal,
    ShardRef,
    Supersede,
    Tombstone,
    record_key,
)
from pipeline.labels.history import History
from pipeline.labels.log import HEAD_KEY, FencedError, LogReader, LogWriter
from pipeline.labels.manifest import MANIFESTS, SEGMENTS, Manifest, facts_in_memory, newest_manifest
from pipeline.labels.state import LogState, fold
from tests.kit.stores import Crash, MemoryStore

CLASSES = ("ham", "spam")
HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "FILE_FACTS", 5)
    monkeypatch.setattr(manifests, "SEGMENT_MAX_FACTS", 40)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def writer_of(store: MemoryStore, name: str = "w") -> LogWriter:
    return LogWriter.open(store, holder=name, classes=CLASSES, nonce=f"nonce of {name}", now_unix_s=0)


def commit(unit: int) -> Commit:
    ref = ShardRef(key=f"shards/{unit}", rows=10, bytes=10, crc32=unit)
    return Commit(start=10 * unit, stop=10 * unit + 10, shard=ref, teacher="t", teacher_s=0.5)


def label(writer: LogWriter, units: list[int], *, at_unix_s: float = 0, filing: bool = True) -> LogState:
    for unit in units:
        writer.queue([commit(unit)])
        writer.flush(now_unix_s=at_unix_s)
        if filing:
            writer.file_if_due(now_unix_s=at_unix_s)
    return writer.state


def planned(writer: LogWriter, units: int = 100) -> LogWriter:
    writer.queue([Plan(part="p", name="p", first=0, rows=10 * units, stride=1)])
    writer.flush(now_unix_s=0)
    return writer


def filed(store: MemoryStore) -> Manifest:
    found = newest_manifest(store)
    assert found
    return found


def folded(store: MemoryStore) -> LogState:
    """The state that the records alone come to."""
    keys = sorted(key for key in store.objects if key.startswith("log/0"))
    return fold(LogState(), *(Record.decode(store.objects[key], key=key) for key in keys))


def about_rows(kind: str, start: int, stop: int) -> Entry:
    match kind:
        case "retry":
            return Retry(start=start, stop=stop)
        case "tombstone":
            return Tombstone(start=start, stop=start + 1, reason="forgotten")
    return (Supersede if kind == "supersede" else Reinstate)(start=start, stop=stop, generation=start % 3)


KINDS = ("commit", "quarantine", "seal", "repair", "tombstone", "end", "open", "plan", "retry", "supersede", "reinstate")


@given(kinds=st.lists(st.sampled_from(KINDS), max_size=60), order=st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_state_is_the_same_whether_it_was_filed_or_not(kinds, order):
    store = MemoryStore()
    writer = planned(writer_of(store))
    follower = LogReader(store)
    units = list(range(100))
    order.shuffle(units)
    for number, kind in enumerate(kinds):
        state = writer.state
        entry: Entry | None = None
        match kind:
            case "commit":
                entry = commit(units.pop())
            case "quarantine":
                unit = units.pop()
                entry = Quarantine(start=10 * unit, stop=10 * unit + 3, reason="bad")
            case "seal" if len(state.commits) > state.sealed_commits:
                entry = Seal(window=len(state.windows), first_commit=state.sealed_commits, stop_commit=len(state.commits), rows=10)
            case "repair" if state.commits:
                entry = Repair(shard=state.commits[0].shard.key, by=commit(number).shard, teacher="t")
            case "retry" | "tombstone" | "supersede" | "reinstate":
                entry = about_rows(kind, number, order.randint(number + 1, 1000))
            case "end":
                entry = End(generation=number)
            case "plan":
                entry = Plan(part=f"p{number}", name="p", first=state.rows_planned, rows=7, stride=2)
            case "open":
                writer = LogWriter.open(store, holder="w", classes=CLASSES, nonce=f"nonce {number}", now_unix_s=0)
        writer.queue([entry] if entry else [])
        writer.flush(now_unix_s=number)
        writer.file_if_due(now_unix_s=number)
        follower.refresh()
    expected = folded(store)
    assert writer.state == expected
    assert follower.refresh() == expected
    opened = LogReader(store).refresh()
    assert opened == expected
    for found in expected.commits:
        assert opened.commit_of(found.shard.key, start=found.start) == found
        assert opened.commit_of("shards/other", start=found.start) is None


def test_opening_reads_the_newest_manifest_and_the_records_after_it(store):
    label(planned(writer_of(store)), list(range(32)))
    store.steps.clear()
    state = LogReader(store).refresh()
    assert sum(step.startswith("get log/0") for step in store.steps) <= 6
    assert not any(step.startswith(f"get {SEGMENTS}") for step in store.steps), "a segment was read before anybody asked for what is in it"
    assert facts_in_memory(state) < 6
    store.steps.clear()
    assert state.commit_of("shards/10", start=100) == commit(10)
    assert sum(step.startswith(f"get {SEGMENTS}") for step in store.steps) == 1


def test_segments_merge_as_a_binary_counter_and_never_beyond_their_limit(store):
    writer = planned(writer_of(store), units=400)
    sizes = []
    for unit in range(400):
        label(writer, [unit])
        found = newest_manifest(store)
        sizes = [ref.facts for ref in found.segments] if found else []
        assert all(older >= newer for older, newer in pairwise(sizes)), sizes
        assert max(sizes, default=0) <= 40
    assert len(sizes) <= 400 // 20 + 4
    written = sum(len(store.objects[key]) for key in store.objects if key.startswith(SEGMENTS))
    assert written <= 8 * sum(ref.bytes for ref in filed(store).segments)


@pytest.mark.parametrize("number", range(14))
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_of_a_filing_changes_nothing(number, after):
    store = MemoryStore()
    writer = label_until_the_next_commit_files(store)
    store.crash_at(number, after=after)
    try:
        label(writer, [80, 81, 82], at_unix_s=2 * HOUR_S)
    except Crash:
        store.revive()
    again = writer_of(store, "again")
    units = {found.start // 10 for found in again.state.commits}
    assert units.issuperset(range(30))
    label(again, [unit for unit in range(100) if unit not in units], at_unix_s=3 * HOUR_S)
    assert sorted(found.start // 10 for found in LogReader(store).refresh().commits) == list(range(100))
    named = {ref.key for ref in filed(store).segments} | {key for old in filed(store).retired for key in old.keys}
    assert {key for key in store.objects if key.startswith((SEGMENTS, MANIFESTS))} - named == {filed(store).key}


def label_until_the_next_commit_files(store: MemoryStore) -> LogWriter:
    writer = planned(writer_of(store))
    label(writer, list(range(30)))
    while facts_in_memory(writer.state) < 4:
        label(writer, [len(writer.state.commits)], filing=False)
    return writer


def test_an_answer_that_was_lost_while_filing_may_be_asked_for_again(store):
    writer = label_until_the_next_commit_files(store)
    store.lose_response(f"put_if_absent {MANIFESTS}")
    with pytest.raises(ConnectionError):
        label(writer, [80])
    assert writer.file_if_due(now_unix_s=1)
    assert writer.state == LogReader(store).refresh()


def test_what_was_filed_goes_after_a_grace_and_not_before(store):
    writer = planned(writer_of(store))
    label(writer, list(range(20)), at_unix_s=0)
    label(writer, list(range(20, 30)), at_unix_s=0.9 * HOUR_S)
    assert record_key(0) in store.objects
    label(writer, list(range(30, 40)), at_unix_s=1.1 * HOUR_S)
    assert record_key(0) not in store.objects
    assert record_key(22) in store.objects
    assert LogReader(store).refresh() == writer.state
    assert [found.start for found in writer.state.commits] == [10 * unit for unit in range(40)]


def test_a_reader_that_slept_past_the_grace_goes_on(store):
    writer = planned(writer_of(store))
    label(writer, list(range(7)))
    asleep = LogReader(store)
    before = asleep.refresh()
    for hour in range(1, 10):
        label(writer, list(range(7 * hour, 7 * hour + 7)), at_unix_s=2 * hour * HOUR_S)
    writer.write_head()
    assert record_key(before.next_seq) not in store.objects
    assert [found.start for found in before.commits] == [10 * unit for unit in range(7)], "an old picture reads from newer segments"
    assert asleep.refresh() == writer.state


def test_a_log_whose_records_went_is_no_empty_log_even_without_the_hint(store):
    writer = planned(writer_of(store))
    for hour in range(10):
        label(writer, list(range(7 * hour, 7 * hour + 7)), at_unix_s=2 * hour * HOUR_S)
    store.delete(HEAD_KEY)
    assert record_key(0) not in store.objects
    assert LogReader(store).refresh() == writer.state
    assert writer_of(store, "next").term == 2


def test_a_reader_that_follows_for_long_does_not_grow(store, monkeypatch):
    monkeypatch.setattr("pipeline.labels.log.FILE_FACTS", 5)
    writer = planned(writer_of(store), units=1000)
    follower, most = LogReader(store), 0
    for unit in range(300):
        label(writer, [unit])
        most = max(most, facts_in_memory(follower.refresh()))
    assert most <= 30
    assert follower.state == writer.state


@pytest.mark.parametrize("what", [MANIFESTS, SEGMENTS])
@pytest.mark.parametrize("harm", ["flip", "truncate"])
def test_a_damaged_manifest_or_segment_is_refused_by_name(store, what, harm):
    label(planned(writer_of(store)), list(range(32)))
    key = max(key for key in store.objects if key.startswith(what))
    if harm == "flip":
        store.flip_bit(key, at=len(store.objects[key]) // 2)
    else:
        store.objects[key] = store.objects[key][:-9]
    with pytest.raises(LogUnreadableError, match=key):
        list(LogReader(store).refresh().commits)


def test_a_segment_that_the_newest_manifest_names_and_that_is_gone_is_named(store):
    label(planned(writer_of(store)), list(range(32)))
    key = filed(store).segments[0].key
    del store.objects[key]
    with pytest.raises(LogUnreadableError, match=key):
        list(LogReader(store).refresh().commits)


def test_a_manifest_of_a_newer_version_is_refused(store):
    label(planned(writer_of(store)), list(range(32)))
    newest = filed(store)
    text = newest.encode().rpartition(b"\n")[0].rpartition(b"\n")[0].replace(b'"version":1', b'"version":2', 1)
    store.objects[newest.key] = text + f"\n{crc32(text):08x}\n".encode()
    with pytest.raises(LogUnreadableError, match="input should be 1"):
        LogReader(store).refresh()


def test_a_writer_that_was_fenced_and_files_all_the_same_harms_nobody(store):
    older = label_until_the_next_commit_files(store)
    label(older, [50], filing=False)
    newer = writer_of(store, "newer")
    label(newer, list(range(60, 80)))
    assert older.file_if_due(now_unix_s=5 * HOUR_S), "it does not know yet"
    with pytest.raises(FencedError):
        label(older, [51])
    label(newer, list(range(80, 100)))
    assert LogReader(store).refresh() == newer.state
    assert filed(store).state.term == 2


def test_a_history_is_the_same_wherever_its_facts_lie():
    class Filed:
        def __len__(self) -> int:
            return 3

        def items(self, start: int, stop: int) -> list[int]:
            return [10, 11, 12][start:stop]

    plain, split = History([10, 11, 12, 13, 14]), History([13, 14], older=Filed())
    assert plain == split
    assert split[1:5] == [11, 12, 13, 14]
    assert (split[0], split[-1], split[4], split[::2]) == (10, 14, 14, [10, 12, 14])
    assert list(split.since(2)) == [12, 13, 14]
    assert list(split.extended([15])) == [10, 11, 12, 13, 14, 15]
    assert list(plain.rebased(Filed())) == list(plain)
    assert plain.rebased(Filed()).in_memory == 2
    with pytest.raises(IndexError):
        split[5]
