"""Teachers of several members: what they say together, and how far they are apart."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy.spatial.distance import jensenshannon

from pipeline.config import TeacherSection
from pipeline.teachers import load_teacher
from pipeline.teachers.checked import CheckedTeacher
from pipeline.teachers.ensemble import Ensemble, disagreement, weighted_mean
from pipeline.teachers.teacher import TeacherLoadError, answer_of, batches_of

logits = hnp.arrays(np.float64, hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=5), elements=st.floats(-30, 30))


def normalised(scores_MBK):
    return scores_MBK - np.log(np.exp(scores_MBK).sum(axis=2, keepdims=True))


def weights(count: int, seed: int):
    return np.random.default_rng(seed).dirichlet(np.ones(count))


@given(scores=logits, seed=st.integers(0, 99))
def test_disagreement_is_within_its_bounds_and_does_not_depend_on_the_order_of_members(scores, seed):
    log_probs, weight = normalised(scores), weights(len(scores), seed)
    apart = disagreement(log_probs, weight)
    assert (apart >= 0).all()
    assert (apart <= -(weight * np.log(weight)).sum() + 1e-9).all()
    turned = np.roll(np.arange(len(scores)), 1)
    np.testing.assert_allclose(disagreement(log_probs[turned], weight[turned]), apart, atol=1e-9)


@given(scores=logits, seed=st.integers(0, 99), space=st.sampled_from(["probability", "log"]))
def test_a_mean_is_a_distribution_and_members_that_agree_are_left_as_they_are(scores, seed, space):
    log_probs, weight = normalised(scores), weights(len(scores), seed)
    np.testing.assert_allclose(np.exp(weighted_mean(log_probs, weight, space=space)).sum(axis=1), 1, atol=1e-9)
    same = np.repeat(log_probs[:1], len(scores), axis=0)
    np.testing.assert_allclose(weighted_mean(same, weight, space=space), log_probs[0], atol=1e-9)
    np.testing.assert_allclose(disagreement(same, weight), 0, atol=1e-9)


@given(scores=hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-20, 20)))
def test_for_two_equal_members_it_is_scipys_jensen_shannon_divergence(scores):
    log_probs = normalised(scores)
    theirs = jensenshannon(np.exp(log_probs[0]), np.exp(log_probs[1]), axis=1) ** 2
    np.testing.assert_allclose(disagreement(log_probs, np.array([0.5, 0.5])), theirs, atol=1e-9)


def test_classes_that_a_member_rules_out():
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]]))
    half = np.array([0.5, 0.5])
    np.testing.assert_allclose(np.exp(weighted_mean(log_probs, half, space="probability")), [[0.75, 0.25], [0.5, 0.5]])
    product = weighted_mean(log_probs, half, space="log")
    np.testing.assert_allclose(np.exp(product[0]), [1, 0])
    assert not np.isfinite(product[1]).any(), "the members rule out every class: a bad sample"
    np.testing.assert_allclose(disagreement(log_probs, half)[1], np.log(2))


class Says:
    classes: tuple[str, ...] = ("a", "b")
    deterministic = True

    def __init__(self, probs, fingerprint: str) -> None:
        self.fingerprint, self._probs = fingerprint, probs

    def log_probs(self, inputs):
        return np.log(np.array([self._probs] * len(inputs), dtype=np.float32))


def test_a_member_that_says_nan_makes_the_row_bad():
    ensemble = Ensemble([Says([0.5, 0.5], "1"), Says([np.nan, 0.5], "2")], [1, 1], space="probability")
    answer = answer_of(CheckedTeacher(ensemble, name="e", classes=("a", "b")), pa.array(["x"]))
    assert np.isnan(answer.log_probs_BK).any()


def test_the_fingerprint_covers_members_weights_and_space():
    one, two = Says([0.5, 0.5], "1"), Says([0.5, 0.5], "2")
    found = {
        Ensemble(members, weight, space=space).fingerprint
        for members in ([one, two], [one, one])
        for weight in ([1, 1], [2, 1])
        for space in ("probability", "log")
    }
    assert len(found) == 8


def test_an_ensemble_is_asked_in_the_batches_of_its_first_member_that_cares():
    class Sorted(Says):
        def __init__(self, fingerprint: str, step: int) -> None:
            super().__init__([0.5, 0.5], fingerprint)
            self._step = step

        def batches(self, inputs):
            return np.array_split(np.arange(len(inputs))[:: self._step], 2)

    def of(*members: Says) -> CheckedTeacher:
        checked = [CheckedTeacher(member, name="m", classes=("a", "b")) for member in members]
        return CheckedTeacher(Ensemble(checked, [1] * len(checked), space="log"), name="e", classes=("a", "b"))

    inputs = pa.array(["x"] * 4)
    careless = Says([0.5, 0.5], "1")
    batches = batches_of(of(careless, Sorted("2", -1), Sorted("3", 1)), inputs, 3)
    assert [batch.tolist() for batch in batches] == [[3, 2], [1, 0]]
    assert [batch.tolist() for batch in batches_of(of(careless, careless), inputs, 3)] == [[0, 1, 2], [3]]


def test_an_ensemble_is_written_in_a_run_file(tmp_path: Path):
    (tmp_path / "mine_for_ensemble.py").write_text("def sure(inputs, p):\n    return [[p, 1 - p] for _ in inputs]\n")
    members = [{"use": "mine_for_ensemble:sure", "options": {"p": p}, "weight": weight} for p, weight in ((0.9, 3), (0.5, 1))]
    section = TeacherSection.model_validate({"use": "ensemble", "members": members})
    answer = answer_of(load_teacher(section, classes=("a", "b"), base=tmp_path), pa.array(["x", "y"]))
    np.testing.assert_allclose(np.exp(answer.log_probs_BK), [[0.8, 0.2]] * 2, atol=1e-6)
    assert answer.disagreement_B is not None
    assert (answer.disagreement_B > 0.01).all()
    wrong = TeacherSection.model_validate({"use": "ensemble", "members": members, "options": {"space": "odds"}})
    with pytest.raises(TeacherLoadError, match="space = 'odds'; expected one of: probability, log"):
        load_teacher(wrong, classes=("a", "b"), base=tmp_path)


@pytest.mark.parametrize("section", [{"use": "ensemble"}, {"use": "sklearn", "members": [{"use": "a:b"}, {"use": "a:c"}]}])
def test_members_belong_to_an_ensemble_and_an_ensemble_has_some(section):
    with pytest.raises(ValidationError, match="an ensemble has two or more"):
        TeacherSection.model_validate(section)
