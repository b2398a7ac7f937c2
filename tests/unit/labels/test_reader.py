"""The reading order: the same samples at the same positions, for any number of readers, whenever they start and whatever breaks."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labels.codecs import DENSE_FP16
from pipeline.labels.codecs.top_k import TopK
from pipeline.labels.entries import Tombstone
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.order import Cursor, permutation, rank_slice
from pipeline.labels.reader import CursorForeignError, EndOfEpoch, LabelBatch, LabelReader, LogEmptyError, NotYet
from pipeline.labels.shard import LabelledRows, ShardCorruptError, encode_shard, put_shard, read_shard
from pipeline.labels.verify import summarise, verify
from pipeline.labels.window import window_of
from pipeline.labels.windows import MixedTeachersError
from tests.kit.labelling import CLASSES, Bench, MemorySource, expected_log_probs, read_epoch
from tests.kit.stores import MemoryStore
from workers.labelling import Demand


def texts(count: int, word: str) -> list[str]:
    return [f"{word} {number}" for number in range(count)]


@pytest.fixture(scope="module")
def labels() -> MemoryStore:
    """Two ended generations, of 70 and 41 rows, in many small windows."""
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": texts(50, "a"), "b": texts(20, "b")}))
    bench.run(1)
    bench.source.texts["c"] = [*texts(41, "c"), "poison"]
    bench.run(2)
    return store


def copy_of(store: MemoryStore) -> MemoryStore:
    copied = MemoryStore()
    copied.objects = dict(store.objects)
    return copied


def reader_of(store: MemoryStore, *, generation: int = 1, batch: int = 8, seed: int = 3, **options) -> LabelReader:
    return LabelReader(store, generation=generation, batch=batch, seed=seed, **options)


def epoch_of(store: MemoryStore, epoch: int, **options) -> list[str]:
    reader = reader_of(store, **options)
    cursor = reader.start()
    for _ in range(epoch):
        ended = read_epoch(reader, cursor)[1]
        assert ended
        cursor = ended
    return read_epoch(reader, cursor)[0]


def test_the_live_pass_has_the_generations_rows_once_and_replays_have_all_rows_once(labels):
    first, second = {f"a:{row}" for row in range(50)} | {f"b:{row}" for row in range(20)}, {f"c:{row}" for row in range(41)}
    for generation, epoch, expected in ((1, 0, first), (1, 1, first), (2, 0, second), (2, 1, first | second), (2, 2, first | second)):
        ids = epoch_of(labels, epoch, generation=generation)
        assert len(ids) == len(set(ids))
        assert set(ids) == expected


def test_epochs_and_seeds_have_orders_of_their_own_and_repeat_exactly(labels):
    orders = [epoch_of(labels, epoch, seed=seed) for epoch in (0, 1, 2) for seed in (1, 2)]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert orders == [epoch_of(labels, epoch, seed=seed) for epoch in (0, 1, 2) for seed in (1, 2)]


def test_the_draw_never_changes():
    assert permutation(12, 7, 0, 5).tolist() == [9, 7, 4, 0, 11, 8, 3, 10, 2, 5, 6, 1]
    assert sorted(permutation(1000, 1).tolist()) == list(range(1000))


@settings(max_examples=40)
@given(world=st.integers(1, 11), batch=st.integers(1, 30), epoch=st.integers(0, 1))
def test_ranks_together_read_what_one_reader_reads(labels, world, batch, epoch):
    alone = reader_of(labels, batch=batch)
    ranks = [reader_of(labels, batch=batch, rank=rank, world=world) for rank in range(world)]
    cursor = Cursor(**(vars(alone.start()) | {"epoch": epoch}))
    while isinstance(whole := alone.read(cursor), LabelBatch):
        slices = [part for rank in ranks if isinstance(part := rank.read(cursor), LabelBatch)]
        assert len(slices) == world
        assert [sample for part in slices for sample in part.sample_ids] == whole.sample_ids
        assert all(part.cursor_after == whole.cursor_after and part.batch_rows == len(whole.sample_ids) for part in slices)
        sizes = [len(part.sample_ids) for part in slices]
        assert max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(np.concatenate([part.log_probs_BK for part in slices]), whole.log_probs_BK)
        assert all(part.inputs.type == whole.inputs.type and len(part.inputs) == len(part.weight_B) for part in slices)
        cursor = whole.cursor_after
    assert all(rank.read(cursor) == whole for rank in ranks)


@given(start=st.integers(0, 1000), rows=st.integers(0, 500), world=st.integers(1, 64))
def test_slices_cover_a_batch_without_overlap(start, rows, world):
    slices = [rank_slice(start, start + rows, rank=rank, world=world) for rank in range(world)]
    assert [place for begin, end in slices for place in range(begin, end)] == list(range(start, start + rows))


def test_a_reader_that_goes_on_from_any_cursor_reads_what_it_would_have_read(labels):
    reader = reader_of(labels)
    whole = epoch_of(labels, 0)
    for steps in range(1, 9):
        cursor = reader.start()
        for _ in range(steps):
            batch = reader.read(cursor)
            assert isinstance(batch, LabelBatch)
            cursor = batch.cursor_after
        assert read_epoch(reader_of(labels), cursor)[0] == whole[cursor.pos :]


@pytest.mark.parametrize("decoded_bytes", [1, 400, 2**20])
def test_a_batch_is_the_same_whichever_was_read_before_and_however_many_are_decoded_at_once(labels, monkeypatch, decoded_bytes):
    alone = [reader_of(labels, batch=3).read(replace(reader_of(labels).start(), batch=3, pos=pos)) for pos in range(0, 70, 3)]
    monkeypatch.setattr("pipeline.labels.reader.DECODED_BYTES", decoded_bytes)
    reader = reader_of(labels, batch=3)
    places = [*range(24), *reversed(range(24)), *range(0, 24, 5)]
    for place in places:
        found, expected = reader.read(replace(reader.start(), pos=3 * place)), alone[place]
        assert isinstance(found, LabelBatch)
        assert isinstance(expected, LabelBatch)
        assert (found.sample_ids, found.inputs.to_pylist(), found.hard_label) == (
            expected.sample_ids,
            expected.inputs.to_pylist(),
            expected.hard_label,
        )
        np.testing.assert_array_equal(found.log_probs_BK, expected.log_probs_BK)
        np.testing.assert_array_equal(found.rows_B, expected.rows_B)


def test_only_the_end_of_a_generation_gives_a_short_batch():
    store, stop = MemoryStore(), threading.Event()
    bench = Bench(store, MemorySource({"a": texts(67, "a")}), unit_rows=3)
    reader = reader_of(store, batch=10)
    sizes: list[int] = []
    cursors: list[Cursor] = []

    def follow(_now: object) -> None:
        if not cursors:
            cursors.append(reader.start())
        while isinstance(got := reader.read(cursors[-1]), LabelBatch):
            sizes.append(len(got.sample_ids))
            cursors.append(got.cursor_after)

    bench.run(on_progress=follow, stop=stop)
    assert len(sizes) > 2, "it was read while it was labelled"
    follow(None)
    assert sizes == [10] * 6 + [7]
    assert reader.read(cursors[-1]) == EndOfEpoch(next=Cursor(**(vars(cursors[-1]) | {"epoch": 1, "pos": 0})))


def test_reading_while_it_grows_gives_the_same_sequence_as_reading_it_later():
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": texts(67, "a")}), unit_rows=3)
    reader, live = reader_of(store), []
    cursors: list[Cursor] = []

    def follow(_now: object) -> None:
        cursors.append(cursors[-1] if cursors else reader.start())
        while isinstance(got := reader.read(cursors[-1]), LabelBatch):
            live.extend(got.sample_ids)
            cursors[-1] = got.cursor_after

    bench.run(on_progress=follow)
    follow(None)
    assert live == epoch_of(store, 0)


def test_what_is_not_there_yet_is_said_at_once():
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": texts(20, "a")}))
    with pytest.raises(LogEmptyError):
        reader_of(store).start()
    bench.labelling().plan()
    reader = reader_of(store)
    cursor = reader.start()
    assert reader.read(cursor) == NotYet()
    assert reader.read(Cursor(**(vars(cursor) | {"epoch": 1}))) == NotYet(), "a replay needs the generation's end"
    bench.run()
    assert isinstance(reader.read(cursor), LabelBatch)


@pytest.mark.parametrize("change", [{"log": "another"}, {"seed": 9}, {"batch": 9}, {"generation": 2}])
def test_a_cursor_of_something_else_is_refused(labels, change):
    reader = reader_of(labels)
    with pytest.raises(CursorForeignError, match=f"cursor has {next(iter(change))} "):
        reader.read(Cursor(**(vars(reader.start()) | change)))


def test_a_corrupt_shard_is_named_until_it_is_repaired_and_then_read_at_the_same_positions(labels):
    store = copy_of(labels)
    bench = Bench(store, MemorySource({"a": texts(50, "a"), "b": texts(20, "b"), "c": [*texts(41, "c"), "poison"]}))
    whole = epoch_of(store, 0)
    commit = LogReader(store).refresh().commits[5]
    store.flip_bit(commit.shard.key, at=300)
    reader = reader_of(store)
    ids: list[str] = []
    cursor = reader.start()
    with pytest.raises(ShardCorruptError) as caught:
        _follow(reader, cursor, ids)
    assert caught.value.shard == commit.shard.key
    cursor = Cursor(**(vars(cursor) | {"pos": len(ids)}))
    with pytest.raises(ShardCorruptError):
        reader.read(cursor)
    assert [(bad.shard, bad.rows) for bad in verify(store).bad] == [(commit.shard.key, commit.shard.rows)]
    bench.run(2, demand=lambda: Demand(corrupt=frozenset([caught.value.shard])))
    assert ids + read_epoch(reader, cursor)[0] == whole
    assert verify(store).sound


def test_a_repair_that_rots_too_is_named_as_its_commit_names_it_and_repaired_again(labels):
    store = copy_of(labels)
    bench = Bench(store, MemorySource({"a": texts(50, "a"), "b": texts(20, "b"), "c": [*texts(41, "c"), "poison"]}))
    key = LogReader(store).refresh().commits[5].shard.key
    for turn in range(2):
        state = LogReader(store).refresh()
        store.flip_bit(state.shard_of(state.commits[5]).key, at=300)
        assert [bad.shard for bad in verify(store).bad] == [key]
        assert bench.run(2, demand=lambda: Demand(corrupt=frozenset([key]))).repaired == (key,), turn
    assert verify(store).sound


def test_a_forgotten_sample_keeps_its_position_and_weighs_nothing(labels):
    store = copy_of(labels)
    reader = reader_of(store, batch=70)
    cursor = reader.start()
    before = reader.read(cursor)
    assert isinstance(before, LabelBatch)
    assert before.weight_B.tolist() == [1] * 70
    writer = LogWriter.open(store, holder="w", classes=CLASSES, nonce="n9", now_unix_s=0)
    writer.queue([Tombstone(start=int(before.rows_B[4]), stop=int(before.rows_B[4]) + 1, reason="asked for")])
    writer.flush(now_unix_s=0)
    after = reader_of(store, batch=70).read(cursor)
    assert isinstance(after, LabelBatch)
    assert after.sample_ids == before.sample_ids
    assert np.flatnonzero(after.weight_B == 0).tolist() == [4]


def test_labels_of_two_teachers_are_refused_unless_asked_for():
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": texts(20, "a")}))
    bench.run(1)
    bench.teacher.fingerprint = "teacher-2"
    bench.source.texts["b"] = texts(9, "b")
    bench.section = bench.section.model_copy(update={"mixed_teachers": True})
    bench.run(2)
    reader = reader_of(store, generation=2)
    with pytest.raises(MixedTeachersError, match="teacher-1, teacher-2"):
        reader.read(reader.start())
    mixed = reader_of(store, generation=2, mixed_teachers=True, batch=29)
    batch = mixed.read(Cursor(**(vars(mixed.start()) | {"epoch": 1})))
    assert isinstance(batch, LabelBatch)
    assert batch.teacher == "teacher-1+teacher-2"


def test_a_batch_carries_evidence_and_hard_labels(labels):
    batch = reader_of(labels, batch=50).read(reader_of(labels, batch=50).start())
    assert isinstance(batch, LabelBatch)
    probs_BK = np.exp(batch.log_probs_BK)
    np.testing.assert_allclose(batch.entropy_B, -(probs_BK * batch.log_probs_BK).sum(axis=1), atol=5e-3)
    np.testing.assert_allclose(batch.margin_B, np.abs(probs_BK[:, 0] - probs_BK[:, 1]), atol=5e-3)
    assert np.isnan(batch.disagreement_B).all()
    assert batch.hard_label == [CLASSES[len(text) % 2] for text in batch.inputs.to_pylist()]
    hard_B = [CLASSES.index(label or "") for label in batch.hard_label]
    np.testing.assert_allclose(batch.agreement_B, probs_BK[np.arange(len(hard_B)), hard_B], atol=5e-3)


def test_the_summary_adds_up(labels):
    found = summarise(labels)
    assert (found.rows_planned, found.rows_committed, found.rows_quarantined) == (112, 111, 1)
    assert [(part.name, part.rows, part.rows_done) for part in found.parts] == [("a", 50, 50), ("b", 20, 20), ("c", 42, 42)]
    assert [generation for generation, _ in found.generations] == [1, 2]
    assert sum(windows for _, windows in found.generations) == found.windows
    assert found.quarantine_reasons == (("the teacher failed: ValueError: the teacher chokes", 1),)
    assert (found.teachers, found.classes, found.holder) == (("teacher-1",), CLASSES, "the test")
    assert found.bytes == sum(labels.size(key) for key in labels.list("shards/"))


def test_verify_lists_every_bad_shard(labels):
    store = copy_of(labels)
    keys = [commit.shard.key for commit in LogReader(store).refresh().commits]
    damage: list[Callable[[], object]] = [
        lambda: store.flip_bit(keys[1], at=9),
        lambda: store.delete(keys[4]),
        lambda: store.objects.update({keys[7]: store.objects[keys[7]] + b"x"}),
    ]
    for act in damage:
        act()
    assert [bad.shard for bad in verify(store).bad] == [keys[1], keys[4], keys[7]]
    assert not verify(store).sound


def _follow(reader: LabelReader, cursor: Cursor, ids: list[str]) -> None:
    while isinstance(got := reader.read(cursor), LabelBatch):
        ids += got.sample_ids
        cursor = got.cursor_after


def coded(store: MemoryStore, word: str, generation: int, **codec: Any) -> dict[str, np.ndarray]:
    """Label ten more texts with that codec; what the teacher says of them."""
    bench = Bench(store, MemorySource({}), **codec)
    for number in range(1, generation + 1):
        name = "ab"[number - 1]
        bench.source.texts[name] = texts(10, name)
    bench.run(generation)
    return {f"{word}:{row}": expected_log_probs(text) for row, text in enumerate(texts(10, word))}


def test_what_a_sparse_codec_kept_comes_with_each_batch_and_of_a_dense_one_every_class_was_kept() -> None:
    store = MemoryStore()
    said = coded(store, "a", 1, codec="dense_fp16") | coded(store, "b", 2, codec="top_k", codec_k=1)
    reader = reader_of(store, generation=2, batch=20)
    live = reader.read(reader.start())
    assert isinstance(live, LabelBatch)
    assert live.recorded is not None
    assert live.recorded.ids_NR.shape == (10, 1)
    both = reader.read(replace(reader.start(), epoch=1))
    assert isinstance(both, LabelBatch)
    assert both.recorded is not None
    for sample, ids, log_probs, tail in zip(
        both.sample_ids, both.recorded.ids_NR, both.recorded.log_probs_NR, both.recorded.tail_N, strict=True
    ):
        kept = log_probs > -np.inf
        np.testing.assert_allclose(log_probs[kept], said[sample][ids[kept]], atol=2e-3)
        assert np.exp(log_probs[kept]).sum() + np.exp(tail) == pytest.approx(1, abs=1e-3)
        assert kept.sum() == (2 if sample.startswith("a") else 1)
    dense = reader_of(store, generation=1).read(reader_of(store, generation=1).start())
    assert isinstance(dense, LabelBatch)
    assert dense.recorded is None


def test_a_window_of_two_codecs_is_read_as_every_class() -> None:
    classes = ("ham", "spam")
    log_probs = np.log(np.array([[0.7, 0.3], [0.2, 0.8]], dtype=np.float32))
    shards = []
    for first, codec in ((0, DENSE_FP16), (2, TopK(k=1))):
        rows = LabelledRows(
            rows_N=np.arange(first, first + 2),
            sample_ids=pa.array(["x", "y"]),
            inputs=pa.array(["x", "y"]),
            log_probs_NK=log_probs,
            labels=pa.nulls(2, pa.string()),
        )
        store = MemoryStore()
        ref = put_shard(store, "shards/a", encode_shard(rows, teacher="t", classes=classes, codec=codec), rows=2)
        shards.append(read_shard(store, ref))
    found = window_of(shards, np.array([3, 0, 2, 1])).rows(0, 4)
    np.testing.assert_allclose(np.exp(found.log_probs_BK), np.exp(log_probs)[[1, 0, 0, 1]], atol=2e-3)
    assert found.narrow["row"].tolist() == [3, 0, 2, 1]
    assert found.recorded is None
