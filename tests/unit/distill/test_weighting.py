"""What each policy thinks of the evidence, alone and together."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distill.weighting import POLICIES, Evidence, check_policies, weights
from pipeline.errors import ConfigError
from pipeline.labels.evidence import entropy_nats, margin


def evidence_of(probabilities: Any, weight: Any = None, **known: Any) -> Evidence:
    teacher_BK = np.array(probabilities, dtype=np.float32)
    rows, classes = teacher_BK.shape
    with np.errstate(divide="ignore"):
        log_probs_BK = np.log(teacher_BK)
    nothing = np.full(rows, np.nan, dtype=np.float32)
    given_: dict[str, Any] = {
        "weight_B": np.ones(rows) if weight is None else np.array(weight),
        "entropy_B": entropy_nats(log_probs_BK),
        "margin_B": margin(log_probs_BK),
        "disagreement_B": nothing,
        "agreement_B": nothing,
        "teacher_BK": teacher_BK,
        "student_BK": np.full((rows, classes), 1 / classes),
        "prior_K": np.full(classes, 1 / classes),
    }
    return Evidence(**{name: np.asarray(value, dtype=np.float32) for name, value in (given_ | known).items()})


@given(seed=st.integers(0, 1000), classes=st.integers(2, 6), chosen=st.sets(st.sampled_from(sorted(POLICIES))), power=st.floats(0.1, 4))
@settings(max_examples=60)
def test_weights_are_shares_whatever_is_chosen_and_a_forgotten_sample_stays_forgotten(
    seed: int, classes: int, chosen: set[str], power: float
) -> None:
    chance = np.random.default_rng(seed)
    drawn = [chance.dirichlet(np.full(classes, 0.2), 8) for _ in range(2)]
    some = np.where(chance.random(8) < 0.5, np.nan, chance.random(8))
    evidence = evidence_of(
        drawn[0],
        [0, *[1] * 7],
        student_BK=drawn[1],
        prior_K=chance.dirichlet(np.ones(classes)),
        agreement_B=some,
        disagreement_B=3 * some,
    )
    found = weights(evidence, dict.fromkeys(chosen, power))
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert found[0] == 0
    each = [weights(evidence, {name: 1.0}) ** power for name in chosen]
    np.testing.assert_allclose(found[1:], np.prod([*each, np.ones(8)], axis=0)[1:], rtol=1e-4, atol=1e-6)


def test_without_a_policy_every_sample_counts_the_same() -> None:
    assert weights(evidence_of([[0.5, 0.5], [1, 0]]), {}).tolist() == [1, 1]


def test_confidence_trusts_a_sure_answer_and_a_coin_toss_by_half_or_as_told() -> None:
    evidence, surety_B = evidence_of([[0.5, 0.5], [0.8, 0.2], [1, 0]]), np.array([0, 1 - 0.7219, 1])
    np.testing.assert_allclose(weights(evidence, {"confidence": 1.0}), 0.5 + 0.5 * surety_B, atol=1e-3)
    np.testing.assert_allclose(weights(evidence, {"confidence": 1.0}, {"confidence": {"least": 0.0}}), surety_B, atol=1e-3)


def test_a_band_of_entropy_keeps_what_is_neither_trivial_nor_unknown() -> None:
    options = {"entropy_band": {"low": 0.1, "high": 0.9, "outside": 0.25}}
    found = weights(evidence_of([[0.5, 0.5], [0.8, 0.2], [1, 0]]), {"entropy_band": 1.0}, options)
    assert found.tolist() == [0.25, 1, 0.25]


def test_members_that_differ_count_less_and_a_teacher_of_one_model_counts_in_full() -> None:
    found = weights(evidence_of([[0.8, 0.2]] * 3, disagreement_B=[np.nan, 0, 0.1]), {"disagreement": 1.0})
    np.testing.assert_allclose(found, [1, 1, np.exp(-1)], rtol=1e-5)


def test_a_label_that_the_teacher_does_not_believe_counts_little_and_no_label_changes_nothing() -> None:
    found = weights(evidence_of([[0.9, 0.1]] * 3, agreement_B=[np.nan, 0.9, 0.001]), {"hard_label": 1.0})
    np.testing.assert_allclose(found, [1, 0.9, 0.1], rtol=1e-5)


def test_what_a_student_knows_counts_less_than_what_it_gets_wrong() -> None:
    evidence = evidence_of([[0.9, 0.1]] * 3, student_BK=[[0.9, 0.1], [0.4, 0.6], [0, 1]])
    np.testing.assert_allclose(weights(evidence, {"student_gap": 1.0}), [0.7, 0.85, 0.97], rtol=1e-5)


def test_rare_classes_count_as_much_as_common_ones_together() -> None:
    prior, answers = np.array([0.8, 0.2]), np.array([[1, 0]] * 8 + [[0, 1]] * 2)
    found = weights(evidence_of(answers, prior_K=prior), {"class_balance": 1.0})
    assert found[:8].sum() == pytest.approx(found[8:].sum(), rel=1e-5)
    even = weights(replace(evidence_of(answers), prior_K=np.full(2, 0.5, dtype=np.float32)), {"class_balance": 1.0})
    assert even.tolist() == [1] * 10


@pytest.mark.parametrize(
    ("policy", "numbers", "says"),
    [
        ("confidence", {"least": 5.0}, "least is a share of 0 to 1, found 5"),
        ("hard_label", {"least": -1.0}, "least is a share"),
        ("student_gap", {"least": 1.5}, "least is a share"),
        ("disagreement", {"scale_nats": 0.0}, "scale_nats is above 0, found 0"),
        ("disagreement", {"scale_nats": -0.1}, "scale_nats is above 0, found -0.1"),
        ("entropy_band", {"outside": 2.0}, "outside is a share"),
        ("entropy_band", {"low": 0.9, "high": 0.1, "outside": 0.0}, "low is at most high, found 0.9 and 0.1"),
    ],
)
def test_numbers_that_would_make_other_weights_than_shares_are_refused(policy: str, numbers: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"students\.small\.weighting_options\.{policy}: .*{says}"):
        check_policies({policy: 1.0}, where="students.small.weighting", options={policy: numbers})


def test_what_is_no_policy_or_no_option_of_one_is_refused_with_what_is() -> None:
    where = "students.small.weighting"
    check_policies({"confidence": 2.0, "hard_label": 0.5}, where=where, options={"hard_label": {"least": 0.2}})
    with pytest.raises(ConfigError, match=r"no weighting named 'trust'; expected known: class_balance, confidence, .*"):
        check_policies({"trust": 1.0}, where=where)
    with pytest.raises(ConfigError, match=r"students\.small\.weighting\.confidence: 0; expected a power above 0"):
        check_policies({"confidence": 0.0}, where=where)
    with pytest.raises(ConfigError, match=r"confidence: 1e\+09; expected a power above 0, at most 10"):
        check_policies({"confidence": 1e9}, where=where)
    with pytest.raises(ConfigError, match=r"weighting_options\.hard_label: no option 'most'; expected one of: least"):
        check_policies({"hard_label": 1.0}, where=where, options={"hard_label": {"most": 1.0}})
    with pytest.raises(ConfigError, match="options of 'hard_label'; expected those of what is used: confidence"):
        check_policies({"confidence": 1.0}, where=where, options={"hard_label": {"least": 1.0}})
