"""Loading the next window in a thread changes when it is loaded, and nothing else."""

import gc
import threading
from dataclasses import replace

import pytest

from pipeline.labels.log import LogReader
from pipeline.labels.order import Cursor
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.shard import ShardCorruptError
from tests.kit.labelling import Bench, MemorySource
from tests.kit.stores import MemoryStore

ROWS = 64


class Watched(MemoryStore):
    """Remembers of which window each shard was read, and whether by the thread that this was made in."""

    def __init__(self, labels: MemoryStore) -> None:
        super().__init__()
        self.objects = dict(labels.objects)
        self.read: list[tuple[int, bool]] = []
        self._window_of: dict[str, int] = {}
        self._home = threading.get_ident()
        state = LogReader(self).refresh()
        self.windows = [*state.windows]
        self.keys = [[commit.shard.key for commit in state.commits[seal.first_commit : seal.stop_commit]] for seal in self.windows]
        self._window_of = {key: window for window, keys in enumerate(self.keys) for key in keys}

    def get(self, key: str) -> bytes:
        if key in self._window_of:
            self.read.append((self._window_of[key], threading.get_ident() == self._home))
        return super().get(key)


@pytest.fixture(scope="module")
def labels() -> MemoryStore:
    labels = MemoryStore()
    Bench(labels, MemorySource({"a": [f"text {number}" for number in range(ROWS)]})).run(1)
    return labels


@pytest.fixture
def store(labels: MemoryStore) -> Watched:
    return Watched(labels)


def reader_of(store: MemoryStore) -> LabelReader:
    return LabelReader(store, generation=1, batch=4, seed=3)


def batch_at(reader: LabelReader, cursor: Cursor) -> LabelBatch:
    found = reader.read(cursor)
    assert isinstance(found, LabelBatch)
    return found


def to_the_end(reader: LabelReader, cursor: Cursor) -> None:
    while isinstance(found := reader.read(cursor), LabelBatch):
        cursor = found.cursor_after


def settled(reader: LabelReader) -> None:
    """What was begun to be loaded ahead is loaded."""
    if reader._windows._ahead is not None:
        reader._windows._ahead[1].exception()


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loads the next window")]


def test_another_thread_loads_all_windows_but_an_epochs_first_each_once_and_never_more_than_one_ahead(store: Watched) -> None:
    reader = reader_of(store)
    cursor = reader.start()
    for window, seal in enumerate(store.windows):
        for _ in range(seal.rows // 4):
            cursor = batch_at(reader, cursor).cursor_after
            settled(reader)
            assert {loaded for loaded, _ in store.read} == set(range(min(window + 2, len(store.windows))))
    assert len(store.windows) > 4
    assert {*store.read} == {(0, True)} | {(window, False) for window in range(1, len(store.windows))}
    assert len(store.read) == sum(map(len, store.keys))


def test_a_window_that_could_not_be_loaded_ahead_is_an_error_where_it_is_asked_for(store: Watched) -> None:
    key, whole = store.keys[1][0], store.objects[store.keys[1][0]]
    store.flip_bit(key, at=300)
    reader = reader_of(store)
    first = batch_at(reader, reader.start())
    settled(reader)
    for _ in range(2):
        with pytest.raises(ShardCorruptError, match=key):
            reader.read(first.cursor_after)
    store.objects[key] = whole
    assert batch_at(reader, first.cursor_after).rows_B.tolist() == batch_at(reader_of(store), first.cursor_after).rows_B.tolist()


def test_what_was_mended_after_it_was_looked_at_ahead_is_no_error(store: Watched) -> None:
    key, whole = store.keys[1][0], store.objects[store.keys[1][0]]
    store.flip_bit(key, at=300)
    reader = reader_of(store)
    first = batch_at(reader, reader.start())
    settled(reader)
    store.objects[key] = whole
    batch_at(reader, first.cursor_after)


def test_every_epoch_checks_every_shard_anew(store: Watched) -> None:
    reader = reader_of(store)
    to_the_end(reader, reader.start())
    store.flip_bit(store.keys[2][1], at=300)
    with pytest.raises(ShardCorruptError, match=store.keys[2][1]):
        to_the_end(reader, replace(reader.start(), epoch=1))


def test_the_thread_begins_with_the_first_batch_and_ends_with_the_reader(store: Watched) -> None:
    others = {*loaders()}
    reader = reader_of(store)
    start = reader.start()
    assert {*loaders()} == others
    batch_at(reader, start)
    (thread,) = {*loaders()} - others
    del reader
    gc.collect()
    thread.join(timeout=10)
    assert not thread.is_alive()
