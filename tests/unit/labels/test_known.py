"""The index of known contents against a dict, whatever crashes, and what is found by it."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labels.codecs import DENSE_FP16, Codec, Sampled, TopK
from pipeline.labels.content import content_keys
from pipeline.labels.entries import Commit, Drop, End, Floor, Plan, Repair, Seal, ShardRef, Tombstone
from pipeline.labels.known import KnownLabels, index, index_commits
from pipeline.labels.known.index import MANIFESTS, TABLES, Index, newest_index
from pipeline.labels.known.table import Rows, Table, TableUnreadableError, encode_table, joined
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.shard import LabelledRows, encode_shard, label_columns, maker, put_shard, read_shard
from pipeline.labels.store import LocalStore
from tests.kit.stores import Crash, MemoryStore

CLASSES = ("a", "b", "c")
MAKER = maker(teacher="t", classes=CLASSES, codec=DENSE_FP16)
WORDS = [f"word {number}" for number in range(40)]


def keys_of(texts: Sequence[str]) -> Any:
    return content_keys(pa.array(texts, pa.string()))


class Written:
    """A log with shards of texts; labels are random, so that a copy is told from a second answer."""

    def __init__(self, store: Any, *, codec: Codec = DENSE_FP16) -> None:
        self.store, self.codec = store, codec
        self.writer = LogWriter.open(store, holder="test", classes=CLASSES, nonce="n", now_unix_s=0)
        self.writer.queue([Plan(part="p", name="p", first=0, rows=1_000_000, stride=1)])
        self.random, self.rows = np.random.default_rng(1), 0

    def commit(self, texts: Sequence[str], *, teacher: str = "t") -> Commit:
        rows = len(texts)
        ref = self.shard(f"shards/{self.rows}", texts, first=self.rows, teacher=teacher)
        commit = Commit(start=self.rows, stop=self.rows + rows, shard=ref, teacher=teacher, teacher_s=0)
        self.writer.queue([commit])
        self.rows += rows
        return commit

    def shard(self, key: str, texts: Sequence[str], *, first: int, teacher: str = "t") -> ShardRef:
        rows = len(texts)
        logits = self.random.normal(size=(rows, len(CLASSES))).astype(np.float32)
        labelled = LabelledRows(
            rows_N=np.arange(first, first + rows),
            sample_ids=pa.array([f"s{first + row}" for row in range(rows)]),
            inputs=pa.array(texts, pa.string()),
            log_probs_NK=logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)),
            labels=pa.nulls(rows, pa.string()),
            keys_N2=keys_of(texts),
        )
        return put_shard(self.store, key, encode_shard(labelled, teacher=teacher, classes=CLASSES, codec=self.codec), rows=rows)

    def index(self, *, term: int = 1) -> Index:
        self.writer.flush(now_unix_s=0)
        made = index_commits(self.store, self.writer.state, term=term)
        assert made
        return made


def found_by(store: Any, texts: Sequence[str], *, made_by: bytes = MAKER) -> dict[str, Any]:
    """Text -> label columns, of those that are known."""
    known = KnownLabels(store, maker=made_by)
    known.refresh()
    copied = known.find(keys_of(texts))
    return {} if copied is None else dict(zip([texts[place] for place in copied.places_C], copied.columns.to_pylist(), strict=True))


def stored(store: Any, ref: ShardRef) -> dict[str, Any]:
    """The same, of one shard."""
    table = read_shard(store, ref).table
    return dict(zip(table["input"].to_pylist(), table.select(label_columns(table.schema)).to_pylist(), strict=True))


def bits(found: dict[str, Any]) -> dict[str, str]:
    return {text: repr(columns) for text, columns in found.items()}


ENTRIES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=40)


def rows_of(entries: list[tuple[int, int]], *, first_commit: int = 0) -> Rows:
    keys = keys_of([str(content) for content, _ in entries])
    commits = np.sort(np.array([commit for _, commit in entries], dtype=np.uint32)) + np.uint32(first_commit)
    return Rows(keys_N2=keys, commit_N=commits, place_N=np.arange(len(entries), dtype=np.uint32))


@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_merged_tables_find_what_a_dict_finds_and_the_newest_wins(tables):
    parts = [rows_of(entries, first_commit=6 * number) for number, entries in enumerate(tables)]
    expected = {
        bytes(key): (int(commit), int(place))
        for part in parts
        for key, commit, place in zip(part.keys_N2, part.commit_N, part.place_N, strict=True)
    }
    merged = Table(encode_table(joined([Table(encode_table(part), key="t").rows() for part in parts])), key="t")
    asked = keys_of([str(content) for content in range(40)])
    commits, places = merged.find(asked)
    assert len(merged) == len(expected)
    for key, commit, place in zip(asked, commits.tolist(), places.tolist(), strict=True):
        assert (commit, place) == expected.get(bytes(key), (-1, 0))


def test_the_filter_lets_few_of_the_unknown_through():
    keys = keys_of([str(number) for number in range(40_000)])
    rows = Rows(keys_N2=keys[:20_000], commit_N=np.zeros(20_000, np.uint32), place_N=np.arange(20_000, dtype=np.uint32))
    table = Table(encode_table(rows), key="t")
    assert (table.find(keys[:20_000])[0] == 0).all()
    assert (table.find(keys[20_000:])[0] == -1).all()
    assert table.passed(keys[20_000:]).mean() < 0.03


@pytest.mark.parametrize("damage", [lambda data: data[:10], lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: data + b"x"])
def test_what_is_no_table_is_refused(damage):
    with pytest.raises(TableUnreadableError, match="the next `kdpipe run` makes it anew"):
        Table(damage(encode_table(rows_of([(1, 1), (2, 2)]))), key="t")


@pytest.mark.parametrize("codec", [DENSE_FP16, TopK(k=2), Sampled(draws=7)])
def test_a_known_label_is_copied_bit_for_bit(tmp_path, codec):
    for store in (MemoryStore(), LocalStore(tmp_path)):  # read in ranges, and mapped
        written = Written(store, codec=codec)
        first, second = written.commit(WORDS[:10]), written.commit(WORDS[10:20])
        written.index()
        found = found_by(store, ["unknown", *WORDS[5:15], "other"], made_by=maker(teacher="t", classes=CLASSES, codec=codec))
        expected = {**stored(store, first.shard), **stored(store, second.shard)}
        assert bits(found) == bits({word: expected[word] for word in WORDS[5:15]})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.booleans()), min_size=1, max_size=12))
def test_the_index_finds_the_newest_label_of_everything_committed(commits):
    store = MemoryStore()
    written, expected = Written(store), dict[str, str]()
    for texts, indexed in commits:
        expected |= bits(stored(store, written.commit(texts).shard))
        if indexed:
            written.index()
    made = written.index()
    assert bits(found_by(store, WORDS)) == expected
    assert [key for key in store.objects if key.startswith(TABLES)] == [ref.key for ref in made.tables]
    assert len([key for key in store.objects if key.startswith(MANIFESTS)]) == 1


def test_tables_grow_up_to_a_cap_and_are_as_few_as_a_counter_has_digits(monkeypatch):
    written = Written(MemoryStore())
    for number in range(32):
        written.commit([f"{number} {place}" for place in range(8)])
        made = written.index()
        assert len(made.tables) <= 6
    assert len(made.tables) == 1
    monkeypatch.setattr(index, "TABLE_MAX_BYTES", made.tables[0].bytes + 500)  # merging saves some heads
    for number in range(32, 64):
        written.commit([f"{number} {place}" for place in range(8)])
        made = written.index()
    assert [(ref.first_commit, ref.stop_commit) for ref in made.tables] == [(0, 32), (32, 64)]


def test_a_long_tail_is_indexed_piece_by_piece(monkeypatch):
    monkeypatch.setattr(index, "ROWS_AT_ONCE", 10)
    monkeypatch.setattr(index, "READ_AT_ONCE", 3)
    store = MemoryStore()
    written = Written(store)
    for number in range(9):
        written.commit([f"{number} {place}" for place in range(4)])
    made = written.index()
    assert made.number == 3
    assert len(found_by(store, [f"{number} {place}" for number in range(9) for place in range(4)])) == 36


def test_of_a_shard_somewhere_else_only_two_ends_are_read():
    store = MemoryStore()
    written = Written(store)
    commit = written.commit([f"{number} " + "long " * 100 for number in range(3000)])
    written.writer.flush(now_unix_s=0)
    store.steps.clear()
    read = list[int]()
    whole = store.get_range

    def get_range(key: str, start: int, length: int) -> bytes:
        if key == commit.shard.key:
            read.append(length)
        return whole(key, start, length)

    store.get_range = get_range  # type: ignore[method-assign]
    written.index()
    assert len(read) == 2
    assert sum(read) < 120_000 < commit.shard.bytes / 10
    assert len(found_by(store, [f"{number} " + "long " * 100 for number in range(3000)])) == 3000


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_loses_nothing_that_was_indexed(after):
    for number in range(100):
        store = MemoryStore()
        written = Written(store)
        written.commit(WORDS[:10])
        written.index()
        written.commit(WORDS[10:30])
        written.writer.flush(now_unix_s=0)
        store.crash_at(number, after=after)
        try:
            written.index()
        except Crash:
            store.revive()
            assert set(found_by(store, WORDS)) in (set(WORDS[:10]), set(WORDS[:30]))
            written.commit(WORDS[30:])
            written.index(term=2)
            assert set(found_by(store, WORDS)) == set(WORDS)
            newest = newest_index(store, log=written.writer.state.log)
            assert newest
            named = {ref.key for ref in newest.tables}
            assert {key for key in store.objects if key.startswith(TABLES)} == named
        else:
            assert number > 3
            return


def test_a_lost_answer_is_put_right_by_the_next_call():
    store = MemoryStore()
    written = Written(store)
    written.commit(WORDS[:10])
    written.writer.flush(now_unix_s=0)
    store.lose_response(f"put_if_absent {MANIFESTS}")
    with pytest.raises(ConnectionError):
        written.index()
    written.commit(WORDS[10:20])
    written.index()
    assert set(found_by(store, WORDS)) == set(WORDS[:20])


@pytest.mark.parametrize("prefix", [MANIFESTS, TABLES, "known/"])
@pytest.mark.parametrize("damage", ["lost", "cut", "flipped"])
def test_a_lost_or_damaged_index_costs_questions_and_is_made_again_from_the_shards(prefix, damage):
    store = MemoryStore()
    written = Written(store)
    written.commit(WORDS[:20])
    written.index()
    for key in [key for key in store.objects if key.startswith(prefix)]:
        data = store.objects.pop(key)
        if damage == "cut":
            store.objects[key] = data[:-1]
        elif damage == "flipped":
            store.objects[key] = bytes([data[0] ^ 1]) + data[1:]
    assert found_by(store, WORDS) == {}
    expected = bits(stored(store, written.commit(WORDS[20:]).shard))
    written.index()
    assert set(found_by(store, WORDS)) == set(WORDS)
    assert bits(found_by(store, WORDS[20:])) == expected


def test_an_index_that_lies_finds_nothing_wrong():
    """Every entry points at another row: the shard has the last word."""
    store = MemoryStore()
    written = Written(store)
    written.commit(WORDS[:20])
    (ref,) = written.index().tables
    rows = Table(store.objects[ref.key], key=ref.key).rows()
    store.objects[ref.key] = encode_table(Rows(keys_N2=rows.keys_N2, commit_N=rows.commit_N, place_N=rows.place_N + np.uint32(1)))
    assert found_by(store, WORDS) == {}
    store.objects[ref.key] = encode_table(Rows(keys_N2=rows.keys_N2, commit_N=rows.commit_N + np.uint32(7), place_N=rows.place_N))
    assert found_by(store, WORDS) == {}


def test_labels_of_another_teacher_codec_or_classes_are_not_found_and_hide_nothing():
    store = MemoryStore()
    written = Written(store)
    own = written.commit(WORDS[:10])
    written.commit(WORDS[:20], teacher="other")
    written.index()
    assert bits(found_by(store, WORDS)) == bits(stored(store, own.shard))
    for other in (maker(teacher="t", classes=CLASSES, codec=TopK(k=2)), maker(teacher="t", classes=("a", "c", "b"), codec=DENSE_FP16)):
        assert found_by(store, WORDS, made_by=other) == {}


@pytest.mark.parametrize("damage", ["flipped", "missing", "cut"])
def test_a_bad_shard_is_a_miss_whenever_it_went_bad(damage):
    for when in ("before indexing", "after"):
        store = MemoryStore()
        written = Written(store)
        bad, _ = written.commit(WORDS[:10]), written.commit(WORDS[10:20])
        if when == "after":
            written.index()
        data = store.objects.pop(bad.shard.key)
        if damage == "flipped":
            store.objects[bad.shard.key] = data[:2000] + bytes([data[2000] ^ 4]) + data[2001:]
        elif damage == "cut":
            store.objects[bad.shard.key] = data[:-100]
        written.index()
        assert set(found_by(store, WORDS)) == set(WORDS[10:20])


def test_a_repaired_shard_gives_its_new_labels_and_no_row_that_was_forgotten():
    store = MemoryStore()
    written = Written(store)
    bad = written.commit(WORDS[:10])
    written.index()
    repaired = written.shard("shards/again", WORDS[:10], first=0)
    written.writer.queue([Repair(shard=bad.shard.key, by=repaired, teacher="t"), Tombstone(start=3, stop=4, reason="forgotten")])
    del store.objects[bad.shard.key]
    written.index()
    expected = bits(stored(store, repaired))
    del expected[WORDS[3]]
    assert bits(found_by(store, WORDS)) == expected


def test_a_writer_of_an_older_term_leaves_the_index_alone():
    store = MemoryStore()
    written = Written(store)
    written.commit(WORDS[:10])
    written.index(term=5)
    written.commit(WORDS[10:])
    before = {key: data for key, data in store.objects.items() if key.startswith("known/")}
    written.writer.flush(now_unix_s=0)
    assert index_commits(store, written.writer.state, term=4) is None
    assert {key: data for key, data in store.objects.items() if key.startswith("known/")} == before


def test_an_index_of_another_log_says_nothing():
    store = MemoryStore()
    written = Written(store)
    written.commit(WORDS[:10])
    written.index()
    for key in [key for key in store.objects if key.startswith("log/")]:
        del store.objects[key]
    writer = LogWriter.open(store, holder="test", classes=CLASSES, nonce="another", now_unix_s=0)
    assert found_by(store, WORDS) == {}
    made = index_commits(store, writer.state, term=writer.term)
    assert made
    assert (made.log, made.tables) == ("another", ())


def test_what_was_dropped_is_forgotten():
    store = MemoryStore()
    written = Written(store)
    for at in range(0, 40, 10):
        written.commit(WORDS[at : at + 10])
    written.index()
    seals = [Seal(window=number, first_commit=number, stop_commit=number + 1, rows=10) for number in range(4)]
    written.writer.queue([*seals, End(generation=1), Floor(window=2), Drop(stop_window=2, stop_commit=2, reason="test")])
    written.commit([f"new {number}" for number in range(50)])
    (ref,) = written.index().tables
    assert set(found_by(store, WORDS)) == set(WORDS[20:])
    assert ref.crc32 == zlib.crc32(store.objects[ref.key])
    assert len(Table(store.objects[ref.key], key=ref.key)) == 70


def test_shards_without_keys_are_passed_over():
    store = MemoryStore()
    written = Written(store)
    commit = written.commit(WORDS[:10])
    table = read_shard(store, commit.shard).table
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema.remove(table.schema.get_field_index("content_key"))) as file:
        file.write_table(table.drop_columns("content_key"))
    store.objects[commit.shard.key] = bytes(sink.getvalue())
    written.index()
    assert found_by(store, WORDS) == {}
    assert LogReader(store).refresh().rows_labelled == 10
