"""Codecs: what is lost is measured, and never more than said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import LabellingSection
from pipeline.labels.advice import advise, candidates, measure
from pipeline.labels.codecs import CLAMP_NATS, CODECS, DENSE_FP16, Codec, Sampled, TopK, codec_from, codec_of, keys_of, log_normalised
from pipeline.labels.codecs.codec import widened

MANY: list[Codec] = [DENSE_FP16, TopK(k=1), TopK(k=4), TopK(k=999), Sampled(draws=1), Sampled(draws=64), Sampled(draws=1000)]


def log_probs(rows: int, classes: int, *, seed: int = 0, spread: float = 3.0):
    return log_normalised(np.random.default_rng(seed).normal(0, spread, (rows, classes)).astype(np.float32))


def round_trip(codec: Codec, given_NK):
    return codec.decode(codec.encode(given_NK, np.arange(len(given_NK))), given_NK.shape[1])


@given(classes=st.integers(2, 300), seed=st.integers(0, 99), spread=st.floats(0.1, 40))
@settings(max_examples=50, deadline=None)
def test_dense_log_probabilities_come_back_normalised_and_close(classes, seed, spread):
    given_NK = log_probs(7, classes, seed=seed, spread=spread)
    back_NK = round_trip(DENSE_FP16, given_NK)
    kept = given_NK > -20
    assert np.abs(np.exp(back_NK) - np.exp(given_NK)).max() < 2e-3
    assert np.abs(back_NK - given_NK)[kept].max() < 0.02


@given(codec=st.sampled_from(MANY), classes=st.integers(2, 40), seed=st.integers(0, 99), spread=st.sampled_from([0.0, 1.0, 30.0, 1000.0]))
@settings(max_examples=100, deadline=None)
def test_rows_of_any_codec_add_to_one_densely_and_sparsely_and_say_the_same(codec, classes, seed, spread):
    given_NK = log_probs(6, classes, seed=seed, spread=spread)
    given_NK[0] = [0, *[-np.inf] * (classes - 1)]
    column = codec.encode(given_NK, np.arange(6))
    assert column.type == codec.column_type(classes)
    dense_NK, sparse = codec.decode(column, classes), codec.sparse(column, classes)
    assert dense_NK.dtype == sparse.log_probs_NR.dtype == sparse.tail_N.dtype == np.float32
    assert np.isfinite(dense_NK).all()
    np.testing.assert_allclose(np.exp(dense_NK).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.exp(sparse.log_probs_NR).sum(axis=1) + np.exp(sparse.tail_N), 1, atol=1e-5)
    recorded_NR = np.take_along_axis(dense_NK, sparse.ids_NR.astype(np.int64), axis=1)
    there_NR = np.isfinite(sparse.log_probs_NR)
    np.testing.assert_allclose(np.exp(sparse.log_probs_NR)[there_NR], np.exp(recorded_NR)[there_NR], atol=1e-5)


@given(codec=st.sampled_from(MANY), start=st.integers(0, 10), length=st.integers(0, 10))
@settings(max_examples=100, deadline=None)
def test_a_slice_of_a_column_decodes_its_own_rows(codec, start, length):
    column = codec.encode(log_probs(10, 7), np.arange(10))
    part = column[start : start + length]
    np.testing.assert_array_equal(codec.decode(part, 7), codec.decode(column, 7)[start : start + length])
    sparse, whole = codec.sparse(part, 7), codec.sparse(column, 7)
    width = sparse.ids_NR.shape[1]
    np.testing.assert_array_equal(sparse.log_probs_NR, whole.log_probs_NR[start : start + length, :width])
    np.testing.assert_array_equal(sparse.tail_N, whole.tail_N[start : start + length])


def test_every_finite_half_is_the_same_number_in_float32():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    np.testing.assert_array_equal(widened(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("codec", MANY)
def test_a_teacher_that_is_certain_is_normal(codec):
    back = round_trip(codec, np.array([[0, -np.inf, -1000], [-np.inf, -np.inf, 0]], dtype=np.float32))
    assert back.argmax(axis=1).tolist() == [0, 2]
    assert back.max(axis=1).tolist() == [0, 0]
    assert back.min() == CLAMP_NATS


@given(classes=st.integers(2, 60), seed=st.integers(0, 99), more=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_top_k_of_all_classes_is_the_dense_codec(classes, seed, more):
    given_NK = log_probs(5, classes, seed=seed)
    np.testing.assert_array_equal(round_trip(TopK(k=classes + more), given_NK), round_trip(DENSE_FP16, given_NK))


@given(classes=st.integers(2, 60), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_top_k_of_all_classes_but_one_knows_the_last_from_the_tail(classes, seed):
    given_NK = log_probs(5, classes, seed=seed)
    np.testing.assert_allclose(round_trip(TopK(k=classes - 1), given_NK), round_trip(DENSE_FP16, given_NK), atol=2e-2)


def test_the_tail_is_the_mass_of_the_rest_and_is_shared_evenly():
    given_NK = np.log(np.array([[0.05, 0.6, 0.05, 0.2, 0.1]], dtype=np.float32))
    column = TopK(k=2).encode(given_NK, np.arange(1))
    assert column[0]["ids"].as_py() == [1, 3]
    np.testing.assert_allclose(np.exp(TopK(k=2).sparse(column, 5).tail_N), 0.2, atol=1e-3)
    np.testing.assert_allclose(np.exp(TopK(k=2).decode(column, 5)), [[0.2 / 3, 0.6, 0.2 / 3, 0.2, 0.2 / 3]], atol=1e-3)


def test_of_equal_classes_the_lower_numbers_are_kept_in_order():
    with np.errstate(divide="ignore"):
        given_NK = np.log(np.array([[0.1, 0.2, 0.2, 0.1, 0.2, 0.2], [0.5, 0, 0, 0, 0.5, 0]], dtype=np.float32))
    assert TopK(k=3).encode(given_NK, np.arange(2)).field("ids").to_pylist() == [[1, 2, 4], [0, 4, 1]]


@pytest.mark.parametrize(("classes", "kind"), [(40_000, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
@pytest.mark.parametrize("codec", [TopK(k=3), Sampled(draws=64)])
def test_classes_with_large_numbers_keep_them(codec, classes, kind):
    given_NK = np.full((2, classes), -np.inf, dtype=np.float32)
    given_NK[:, [33_000, classes - 1]] = np.log([0.75, 0.25])
    column = codec.encode(given_NK, np.arange(2))
    assert kind in str(column.type)
    back_NK = np.exp(codec.decode(column, classes))
    np.testing.assert_allclose(back_NK[:, [33_000, classes - 1]], [[0.75, 0.25]] * 2, atol=1e-3)


@pytest.mark.parametrize("draws", [1, 5, 64])
def test_the_mean_of_many_sampled_labels_is_the_full_answer(draws):
    rows, answer_K = 20_000, np.exp(log_probs(1, 12, spread=2.0))
    codec = Sampled(draws=draws)
    repeated_NK = np.repeat(np.log(answer_K), rows, axis=0)
    shares_NK = np.exp(codec.decode(codec.encode(repeated_NK, np.arange(rows)), 12))
    standard_error_K = shares_NK.std(axis=0) / np.sqrt(rows)
    assert (np.abs(shares_NK.mean(axis=0) - answer_K[0]) < 5 * standard_error_K + 1e-5).all()
    assert np.abs(shares_NK - answer_K).max() < 1 / draws + 1e-5, "systematic draws: no count is off by one or more"


def test_a_row_has_the_same_draw_in_whatever_shard_it_is():
    codec, given_NK, rows_N = Sampled(draws=8), log_probs(9, 30), np.array([3, 4, 5, 9, 10, 70, 2**40, 2**40 + 1, 2**62])
    column = codec.encode(given_NK, rows_N)
    assert column.to_pylist() == codec.encode(given_NK, rows_N).to_pylist()
    alone = [codec.encode(given_NK[[place]], rows_N[[place]]).to_pylist()[0] for place in range(9)]
    assert column.to_pylist() == alone
    same_answer = codec.encode(np.repeat(given_NK[:1], 9, axis=0), rows_N).to_pylist()
    assert len({str(label) for label in same_answer}) > 1, "other rows draw otherwise"


def test_drawing_leaves_the_global_generator_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    round_trip(Sampled(draws=8), log_probs(9, 30))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "classes", "codec"),
    [
        ({}, 256, DENSE_FP16),
        ({}, 257, TopK(k=64)),
        ({"codec": "dense_fp16"}, 50_000, DENSE_FP16),
        ({"codec": "top_k", "codec_k": 5}, 10, TopK(k=5)),
        ({"codec": "sampled", "codec_draws": 50}, 10, Sampled(draws=50)),
    ],
)
def test_the_run_file_chooses_the_codec(options, classes, codec):
    assert codec_of(LabellingSection(**options), classes) == codec


@pytest.mark.parametrize("codec", candidates(1000))
def test_the_keys_that_are_advised_choose_that_codec(codec):
    assert codec_of(LabellingSection.model_validate(keys_of(codec)), 1000) == codec


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("top_k", {"k": 3}),
        ("top_k", {"k": 0, "tail": "uniform"}),
        ("top_k", {"k": "3", "tail": "uniform"}),
        ("top_k", {"k": 3, "tail": "uniform", "sort": True}),
        ("sampled", {"draws": 2**16}),
        ("dense_fp16", {"bits": 8}),
        ("none", {}),
    ],
)
def test_a_codec_with_options_that_nobody_knows_is_unknown(name, options):
    assert codec_from(name, 1, options) is None


def test_every_codec_is_listed_under_its_name():
    assert {name: codec.name for name, codec in CODECS.items()} == {name: name for name in CODECS}


def test_what_a_codec_costs_is_what_its_buffers_hold():
    probe_NK = log_probs(100, 1000)
    assert measure(probe_NK, DENSE_FP16).bytes_per_sample == 2000
    assert measure(probe_NK, TopK(k=64)).bytes_per_sample == 64 * 4 + 2
    exact = measure(probe_NK, DENSE_FP16)
    assert 0 <= exact.kl_mean_nats <= exact.kl_p99_nats < 1e-5
    assert exact.agreement >= 0.97, "fp16 may level the two likeliest classes, and nothing else"


@given(budget=st.floats(0, 3000), classes=st.sampled_from([2, 30, 500]))
@settings(max_examples=20, deadline=None)
def test_advice_is_the_least_error_within_the_budget(budget, classes):
    found = advise(log_probs(50, classes), budget)
    fitting = [each for each in found.measured if each.bytes_per_sample <= budget]
    assert len(found.measured) == len(candidates(classes))
    assert (found.chosen is None) == (not fitting)
    if found.chosen:
        assert found.chosen in fitting
        assert found.chosen.kl_mean_nats == min(each.kl_mean_nats for each in fitting)
