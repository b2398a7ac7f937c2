"""Shards: what a student gets is what the teacher said, or an error."""

import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.labels.codecs import DENSE_FP16, Sampled, TopK, log_normalised
from pipeline.labels.embedding import MixedEmbeddingsError, embeddings_of, joined_embeddings
from pipeline.labels.evidence import entropy_nats, faults, margin
from pipeline.labels.shard import (
    Copied,
    LabelledRows,
    ShardCorruptError,
    ShardUnknownError,
    encode_shard,
    label_columns,
    maker,
    maker_of,
    put_shard,
    read_shard,
    stored_embedding_width,
)
from tests.kit.shards import described_otherwise, of_version_1
from tests.kit.stores import MemoryStore


def log_probs(rows: int, classes: int, *, seed: int = 0, spread: float = 3.0):
    return log_normalised(np.random.default_rng(seed).normal(0, spread, (rows, classes)).astype(np.float32))


def labelled(rows: int = 20, classes: int = 3, *, floats: bool = False) -> LabelledRows:
    return LabelledRows(
        rows_N=np.arange(100, 100 + rows),
        sample_ids=pa.array([f"s{row}" for row in range(rows)]),
        inputs=pa.array([[float(row)] * 4 for row in range(rows)], pa.list_(pa.float32()))
        if floats
        else pa.array([f"t{row}" for row in range(rows)]),
        log_probs_NK=log_probs(rows, classes),
        labels=pa.array([None if row % 2 else "a" for row in range(rows)], pa.string()),
    )


@pytest.fixture
def stored():
    store = MemoryStore()
    data = encode_shard(labelled(), teacher="t1", classes=("a", "b", "c"))
    return store, put_shard(store, "shards/x", data, rows=20)


@pytest.mark.parametrize("floats", [False, True])
def test_a_shard_reads_back_with_its_evidence(floats):
    store, written = MemoryStore(), labelled(floats=floats)
    shard = read_shard(store, put_shard(store, "s", encode_shard(written, teacher="t1", classes=("a", "b", "c")), rows=20))
    assert (shard.teacher, shard.classes, shard.codec) == ("t1", ("a", "b", "c"), DENSE_FP16)
    assert shard.table["row"].to_pylist() == list(range(100, 120))
    assert shard.table["input"].to_pylist() == written.inputs.to_pylist()
    assert shard.table["label"].to_pylist() == written.labels.to_pylist()
    assert shard.table["disagreement"].null_count == 20
    np.testing.assert_allclose(shard.table["entropy"].to_numpy(), entropy_nats(written.log_probs_NK))
    np.testing.assert_allclose(shard.table["margin"].to_numpy(), margin(written.log_probs_NK))
    np.testing.assert_allclose(shard.log_probs(np.array([3, 1])), written.log_probs_NK[[3, 1]], atol=5e-3)


def test_agreement_is_what_the_teacher_gave_the_hard_label_and_null_where_that_is_no_class():
    written = replace(labelled(rows=4), labels=pa.array(["c", None, "d", "a"], pa.string()))
    written.log_probs_NK[3] = [-np.inf, np.log(0.5), np.log(0.5)]
    store = MemoryStore()
    shard = read_shard(store, put_shard(store, "s", encode_shard(written, teacher="t1", classes=("a", "b", "c")), rows=4))
    assert shard.table["agreement"].to_pylist() == [np.exp(written.log_probs_NK[0, 2]), None, None, 0.0]


@pytest.mark.parametrize("codec", [DENSE_FP16, TopK(k=1), Sampled(draws=300)])
def test_a_copied_row_agrees_with_its_own_hard_label_and_not_with_that_of_the_row_it_is_copied_from(codec):
    store, first = MemoryStore(), labelled(rows=4)
    data = encode_shard(first, teacher="t1", classes=("a", "b", "c"), codec=codec)
    shard = read_shard(store, put_shard(store, "s", data, rows=4))
    copied = Copied(places_C=np.array([0, 2]), columns=shard.table.select(label_columns(shard.table.schema)).take([1, 3]))
    second = replace(labelled(rows=4), labels=pa.array(["b", "c", None, "b"], pa.string()), copied=copied)
    data = encode_shard(second, teacher="t1", classes=("a", "b", "c"), codec=codec)
    found = read_shard(store, put_shard(store, "t", data, rows=4)).table["agreement"].to_pylist()
    assert found[0] == pytest.approx(np.exp(shard.log_probs()[1, 1]))
    assert found[1:] == [np.exp(second.log_probs_NK[1, 2]), None, np.exp(second.log_probs_NK[3, 1])]


def test_embeddings_are_kept_in_half_precision_beside_the_labels():
    seen = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float16)
    store = MemoryStore()
    written = replace(labelled(), embedding_ND=seen)
    ref = put_shard(store, "s", encode_shard(written, teacher="t1", classes=("a", "b", "c")), rows=20)
    shard = read_shard(store, ref)
    assert shard.table.schema.field("embedding").type == pa.list_(pa.float16(), 5)
    np.testing.assert_array_equal(embeddings_of(shard.table), seen)
    np.testing.assert_array_equal(embeddings_of(shard.table.slice(3, 2)), seen[3:5])
    assert maker_of(shard.table.schema) == maker(teacher="t1", classes=("a", "b", "c"), codec=DENSE_FP16, embedding=True)
    assert maker_of(shard.table.schema) != maker(teacher="t1", classes=("a", "b", "c"), codec=DENSE_FP16)


@pytest.mark.parametrize("classes", [3, 5_000])
def test_the_width_of_embeddings_is_found_at_the_beginning_of_a_shard(classes):
    store, names = MemoryStore(), tuple(f"class {number}" for number in range(classes))
    for width in (None, 5):
        seen = None if width is None else np.zeros((20, width), dtype=np.float16)
        written = replace(labelled(classes=classes), embedding_ND=seen)
        ref = put_shard(store, f"s{width}", encode_shard(written, teacher="t1", classes=names), rows=20)
        assert stored_embedding_width(store, ref) == width
        store.flip_bit(ref.key, at=20)  # in the schema: whoever reads the shard says so
        stored_embedding_width(store, ref)
        store.delete(ref.key)
        assert stored_embedding_width(store, ref) is None


def test_a_shard_without_the_embeddings_that_it_says_it_has_is_refused(stored):
    store, _ = stored
    claimed = described_otherwise(store.get("shards/x"), lambda described: described | {"embedding": True})
    with pytest.raises(ShardUnknownError, match="expected embeddings: True"):
        read_shard(store, put_shard(store, "z", claimed, rows=20))


def test_embeddings_of_different_widths_are_never_joined():
    two, three = np.zeros((4, 2), dtype=np.float16), np.ones((1, 3), dtype=np.float16)
    joined = joined_embeddings([(None, 2), (two, 4)])
    assert joined is not None
    assert np.isnan(joined).all(axis=1).tolist() == [True, True, False, False, False, False]
    assert joined_embeddings([(None, 2), (None, 0)]) is None
    with pytest.raises(MixedEmbeddingsError, match="embeddings of 2 and 3 numbers"):
        joined_embeddings([(two, 4), (None, 1), (three, 1)])


def test_a_shard_of_version_1_has_labels_that_still_count_and_no_agreement(stored):
    store, ref = stored
    old, new = read_shard(store, put_shard(store, "old", of_version_1(store.get("shards/x")), rows=20)), read_shard(store, ref)
    assert old.table["agreement"].null_count == 20
    assert old.table.drop_columns(["agreement"]).equals(new.table.drop_columns(["agreement"]))
    assert maker_of(old.table.schema) == maker_of(new.table.schema) == maker(teacher="t1", classes=("a", "b", "c"), codec=DENSE_FP16)


def test_a_shard_for_a_network_is_smaller_and_says_the_same(stored):
    store, _ = stored
    written = labelled(2_000, 10)
    sizes, shards = [], []
    for compressed in (False, True):
        data = encode_shard(written, teacher="t1", classes=tuple("abcdefghij"), compressed=compressed)
        sizes.append(len(data))
        shards.append(read_shard(store, put_shard(store, f"shards/{compressed}", data, rows=2_000)).table)
    assert sizes[1] < 0.8 * sizes[0]
    assert shards[0].equals(shards[1])


def test_evidence_of_certain_and_of_undecided_answers():
    certain_and_even = np.array([[0, -np.inf], [np.log(0.5), np.log(0.5)]], dtype=np.float32)
    np.testing.assert_allclose(entropy_nats(certain_and_even), [0, np.log(2)], atol=1e-6)
    np.testing.assert_allclose(margin(certain_and_even), [1, 0], atol=1e-6)


def test_nan_and_nothing_at_all_are_bad_samples_and_minus_infinity_is_not():
    nan, inf = np.nan, np.inf
    found = faults(np.array([[0, -inf], [nan, 0], [-inf, -inf], [-0.7, -0.7]], dtype=np.float32))
    assert found == {1: "the teacher answered NaN", 2: "the teacher gave every class probability 0"}


def test_every_flipped_bit_is_noticed(stored):
    store, ref = stored
    for at in range(0, ref.bytes, 37):
        store.flip_bit("shards/x", at=at, bit=at % 8)
        with pytest.raises(ShardCorruptError, match=r"shard shards/x: crc32 is [0-9a-f]{8}; expected crc32"):
            read_shard(store, ref)
        store.flip_bit("shards/x", at=at, bit=at % 8)
    read_shard(store, ref)


def test_a_shard_that_is_short_or_gone_is_corrupt(stored):
    store, ref = stored
    store.objects["shards/x"] = store.objects["shards/x"][:-1]
    with pytest.raises(ShardCorruptError, match=rf"{ref.bytes - 1} bytes; expected {ref.bytes} bytes"):
        read_shard(store, ref)
    store.delete("shards/x")
    with pytest.raises(ShardCorruptError, match="the object is missing"):
        read_shard(store, ref)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"version": 3}, "version 3; expected version 1 or 2"),
        ({"codec": "telepathy"}, "codec telepathy"),
        ({"codec_version": 9}, "9"),
        ({"codec_options": {"temperature": 2}}, "'temperature': 2"),
        ({"codec": "top_k", "codec_options": {"k": 2, "tail": "none"}}, "'tail': 'none'"),
        ({"codec": "top_k", "codec_options": {"k": 2, "tail": "uniform"}}, "log_probs are fixed_size_list"),
        ({"classes": ["a", "b"]}, "log_probs are fixed_size_list"),
    ],
)
def test_what_a_reader_does_not_know_it_refuses(stored, change, found):
    store, _ = stored
    with pytest.raises(ShardUnknownError, match=found):
        read_shard(store, put_shard(store, "z", described_otherwise(store.get("shards/x"), lambda described: described | change), rows=20))


def test_a_shard_from_before_codecs_had_options_is_dense(stored):
    store, _ = stored
    old = described_otherwise(store.get("shards/x"), lambda it: {key: it[key] for key in it if key != "codec_options"})
    assert read_shard(store, put_shard(store, "old", old, rows=20)).codec == DENSE_FP16


def test_shards_of_all_codecs_are_read_side_by_side():
    store, written = MemoryStore(), labelled(rows=20, classes=3)
    shards = [
        read_shard(store, put_shard(store, codec.name, encode_shard(written, teacher="t1", classes=("a", "b", "c"), codec=codec), rows=20))
        for codec in (DENSE_FP16, TopK(k=2), Sampled(draws=300))
    ]
    assert [shard.codec for shard in shards] == [DENSE_FP16, TopK(k=2), Sampled(draws=300)]
    for shard in shards:
        np.testing.assert_allclose(np.exp(shard.log_probs()), np.exp(written.log_probs_NK), atol=4e-3)
        np.testing.assert_allclose(shard.log_probs(np.array([7, 2])), shard.log_probs()[[7, 2]], atol=1e-6)
        sparse = shard.sparse(slice(3, 9))
        np.testing.assert_allclose(np.exp(sparse.log_probs_NR).sum(axis=1) + np.exp(sparse.tail_N), 1, atol=1e-5)


def test_errors_survive_pickling():
    for error in (ShardCorruptError("s", "a", "b"), ShardUnknownError("s", "a", "b"), MixedEmbeddingsError((2, 3))):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
