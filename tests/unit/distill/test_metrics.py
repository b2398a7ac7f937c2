"""Metrics against scikit-learn and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binned_statistic
from sklearn.metrics import roc_auc_score, roc_curve

from pipeline.distill.metrics import (
    TEMPERATURE_MAX,
    TEMPERATURE_MIN,
    accuracy,
    agreement,
    auc,
    expected_calibration_error,
    fit_temperature,
    log_softmax,
    nll,
    one_hot,
    recall_at_fpr,
    threshold_at_fpr,
)


def draw(seed: int, *, rows: int = 200, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    positive = generator.random(rows) < 0.3
    positive[:2] = True, False
    score = generator.normal(positive * 1.2, 1)
    return np.round(score, 0 if ties else 12), positive


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=40)
def test_auc_is_sklearns_also_with_ties(seed: int, ties: bool) -> None:
    score, positive = draw(seed, ties=ties)
    assert auc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)


@given(seed=st.integers(0, 10_000), ties=st.booleans(), limit=st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]))
@settings(max_examples=60)
def test_recall_at_a_false_positive_rate_is_the_best_point_of_sklearns_curve(seed: int, ties: bool, limit: float) -> None:
    score, positive = draw(seed, ties=ties)
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    assert recall_at_fpr(score, positive, fpr_max=limit) == pytest.approx(tpr[fpr <= limit + 1e-12].max(), abs=1e-12)


@given(seed=st.integers(0, 10_000), ties=st.booleans(), limit=st.sampled_from([0.0, 0.01, 0.1, 1.0]))
def test_the_threshold_finds_what_recall_at_that_rate_promises(seed: int, ties: bool, limit: float) -> None:
    score, positive = draw(seed, ties=ties)
    threshold = threshold_at_fpr(score, positive, fpr_max=limit)
    assert np.mean(score[~positive] >= threshold) <= limit
    if limit < 1:
        assert np.mean(score[positive] >= threshold) == recall_at_fpr(score, positive, fpr_max=limit)
    assert threshold_at_fpr(score, np.ones_like(positive), fpr_max=limit) is None


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_calibration_error_is_the_weighted_gap_of_scipys_bins(seed: int) -> None:
    generator = np.random.default_rng(seed)
    log_probs, hard = log_softmax(generator.normal(0, 2, (300, 3))), generator.integers(0, 3, 300)
    confidence, right = np.exp(log_probs.max(axis=1)), log_probs.argmax(axis=1) == hard
    edges = np.linspace(0, 1, 16)
    gaps = [binned_statistic(confidence, values, "sum", bins=edges)[0] for values in (confidence, right.astype(float))]
    assert expected_calibration_error(log_probs, hard) == pytest.approx(np.abs(gaps[0] - gaps[1]).sum() / 300, abs=1e-9)


@given(seed=st.integers(0, 10_000), true=st.floats(0.5, 4))
@settings(max_examples=20)
def test_the_fitted_temperature_is_the_one_that_scipys_search_finds(seed: int, true: float) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (400, 3))
    hard = np.array([generator.choice(3, p=row) for row in np.exp(log_softmax(logits / true))])
    target = one_hot(hard, 3)
    best = minimize_scalar(lambda t: nll(log_softmax(logits / t), target), bounds=(TEMPERATURE_MIN, TEMPERATURE_MAX), method="bounded")
    assert fit_temperature(logits, target) == pytest.approx(best.x, rel=0.01)


def test_a_temperature_stays_in_its_range_where_every_answer_is_right_or_none_is() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, one_hot(np.array([0, 1]), 2)) == pytest.approx(TEMPERATURE_MIN, rel=1e-6)
    assert fit_temperature(logits, one_hot(np.array([1, 0]), 2)) == pytest.approx(TEMPERATURE_MAX, rel=1e-6)
    assert fit_temperature(np.zeros((0, 2)), np.zeros((0, 2))) == 1.0


def test_what_the_samples_do_not_define_is_not_a_number() -> None:
    score, nobody = np.array([0.1, 0.2]), np.array([False, False])
    assert np.isnan(auc(score, nobody))
    assert np.isnan(recall_at_fpr(score, nobody, fpr_max=0.01))
    empty = np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    assert np.isnan(accuracy(*empty))
    assert np.isnan(expected_calibration_error(*empty))
    assert np.isnan(nll(*(empty[0], empty[0])))


def test_agreement_counts_first_classes() -> None:
    ours, teachers = np.log([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]]), np.log([[0.9, 0.1], [0.8, 0.2], [0.51, 0.49]])
    assert agreement(ours, teachers) == pytest.approx(2 / 3)
