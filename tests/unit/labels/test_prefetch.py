"""Reading ahead changes when a batch is read, and nothing else."""

import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labels.order import Cursor
from pipeline.labels.prefetch import Found, ReadingAhead
from pipeline.labels.reader import EndOfEpoch, LabelBatch, LabelReader, NotYet
from pipeline.labels.shard import ShardCorruptError
from tests.kit.labelling import Bench, MemorySource
from tests.kit.stores import MemoryStore
from workers.labelling import Demand


class Watched:
    """A reader that remembers where it was asked, and by which thread."""

    def __init__(self, reader: LabelReader) -> None:
        self._reader = reader
        self.asked: list[tuple[Cursor, str]] = []
        self.fails_at: int | None = None

    def start(self) -> Cursor:
        return self._reader.start()

    def read(self, cursor: Cursor) -> Found:
        self.asked.append((cursor, threading.current_thread().name))
        if cursor.pos == self.fails_at:
            raise ShardCorruptError("shards/a", "1 bytes", "2 bytes")
        return self._reader.read(cursor)


@pytest.fixture(scope="module")
def labels() -> MemoryStore:
    store = MemoryStore()
    Bench(store, MemorySource({"a": [f"text {number}" for number in range(60)]})).run(1)
    return store


def reader_of(store: MemoryStore) -> LabelReader:
    return LabelReader(store, generation=1, batch=8, seed=3)


def batches(reader: LabelReader | ReadingAhead, cursor: Cursor, epochs: int) -> list[tuple[list[str], list[int]]]:
    found = []
    while cursor.epoch < epochs:
        got = reader.read(cursor)
        if isinstance(got, EndOfEpoch):
            cursor = got.next
            continue
        assert isinstance(got, LabelBatch)
        found.append((got.sample_ids, got.rows_B.tolist()))
        cursor = got.cursor_after
    return found


@pytest.mark.parametrize(("epochs", "read_here"), [(True, [0]), (False, [0, 0])], ids=["all but the first", "all but an epoch's first"])
def test_batches_are_the_same_and_are_read_by_another_thread_while_the_last_one_is_learnt_from(
    labels: MemoryStore, epochs: bool, read_here: list[int]
) -> None:
    watched = Watched(reader_of(labels))
    ahead = ReadingAhead(watched, epochs=epochs)
    expected = batches(reader_of(labels), reader_of(labels).start(), 2)
    assert batches(ahead, ahead.start(), 2) == expected
    ahead.close()
    assert [cursor.pos for cursor, thread in watched.asked if thread == threading.current_thread().name] == read_here


def test_an_error_at_the_start_of_the_next_epoch_is_raised_there_and_not_at_the_end_of_this_one(labels: MemoryStore) -> None:
    watched = Watched(reader_of(labels))
    watched.fails_at = 0
    ahead = ReadingAhead(watched)
    last = ahead.read(replace(ahead.start(), pos=56))
    assert isinstance(last, LabelBatch)
    ended = ahead.read(last.cursor_after)
    assert isinstance(ended, EndOfEpoch)
    with pytest.raises(ShardCorruptError):
        ahead.read(ended.next)
    watched.fails_at = None
    assert isinstance(ahead.read(ended.next), LabelBatch)
    ahead.close()


@given(jumps=st.lists(st.integers(0, 7), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_caller_may_go_anywhere_else(labels: MemoryStore, jumps: list[int]) -> None:
    ahead, plain = ReadingAhead(reader_of(labels)), reader_of(labels)
    for jump in jumps:
        cursor = Cursor(log=ahead.start().log, seed=3, batch=8, generation=1, epoch=0, pos=8 * jump)
        mine, other = ahead.read(cursor), plain.read(cursor)
        assert type(mine) is type(other)
        assert not isinstance(mine, LabelBatch) or mine.sample_ids == other.sample_ids  # type: ignore[union-attr]
    ahead.close()


@pytest.mark.parametrize("fails_at", [8, 24])
def test_an_error_of_reading_ahead_is_raised_where_its_batch_is_asked_for_and_the_batch_can_be_had_later(
    labels: MemoryStore, fails_at: int
) -> None:
    watched = Watched(reader_of(labels))
    watched.fails_at = fails_at
    ahead = ReadingAhead(watched)
    cursor = ahead.start()
    while cursor.pos < fails_at:
        found = ahead.read(cursor)
        assert isinstance(found, LabelBatch)
        cursor = found.cursor_after
    for _ in range(2):
        with pytest.raises(ShardCorruptError):
            ahead.read(cursor)
    watched.fails_at = None
    assert isinstance(ahead.read(cursor), LabelBatch)
    ahead.close()


@pytest.mark.parametrize(("ahead_bytes", "batches"), [(1, 1), (2**22, 3)])
def test_no_more_is_held_than_twice_what_is_read_ahead(
    labels: MemoryStore, monkeypatch: pytest.MonkeyPatch, ahead_bytes: int, batches: int
) -> None:
    monkeypatch.setattr("pipeline.labels.prefetch.AHEAD_BATCHES", 3)
    monkeypatch.setattr("pipeline.labels.prefetch.AHEAD_BYTES", ahead_bytes)
    watched = Watched(reader_of(labels))
    ahead = ReadingAhead(watched)
    cursor = ahead.start()
    for handed_out in range(1, 8):
        found = ahead.read(cursor)
        assert isinstance(found, LabelBatch)
        cursor = found.cursor_after
        assert ahead._ahead is not None
        ahead._ahead[1].result()
        assert handed_out + batches <= len(watched.asked) < handed_out + 2 * batches
    ahead.close()


def test_a_tail_that_was_not_there_when_it_was_read_ahead_is_looked_at_again() -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": [f"text {number}" for number in range(40)]}))
    found: list[Found] = []
    ahead: list[ReadingAhead] = []

    def learn(_: object) -> None:
        if not ahead:
            ahead.append(ReadingAhead(reader_of(store)))
        while True:
            last = next((got for got in reversed(found) if isinstance(got, LabelBatch)), None)
            got = ahead[0].read(last.cursor_after if last else ahead[0].start())
            if not isinstance(got, LabelBatch):
                return
            found.append(got)

    bench.run(1, demand=Demand, on_progress=learn)
    learn(None)
    ahead[0].close()
    ids = [sample for got in found if isinstance(got, LabelBatch) for sample in got.sample_ids]
    assert sorted(ids) == sorted({*ids})
    assert len(ids) == 40
    assert isinstance(ReadingAhead(reader_of(MemoryStore())), ReadingAhead)
    assert NotYet() == NotYet()
