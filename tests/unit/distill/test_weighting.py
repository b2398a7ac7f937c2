"""Weights from evidence."""

import numpy as np
import pytest

from pipeline.distill.weighting import POLICIES, Evidence, check_policy
from pipeline.errors import ConfigError
from pipeline.labels.evidence import entropy_nats, margin


def evidence_of(probabilities: list[list[float]], weight: list[float]) -> Evidence:
    log_probs = np.log(np.array(probabilities, dtype=np.float32))
    return Evidence(
        weight_B=np.array(weight, dtype=np.float32),
        entropy_B=entropy_nats(log_probs),
        margin_B=margin(log_probs),
        disagreement_B=np.full(len(weight), np.nan, dtype=np.float32),
        agreement_B=log_probs[:, 0],
        classes=len(probabilities[0]),
    )


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_weights_are_shares_and_a_forgotten_sample_stays_forgotten(policy: str) -> None:
    evidence = evidence_of([[0.5, 0.5], [0.999, 0.001], [0.9, 0.1]], [1, 1, 0])
    weights = POLICIES[policy](evidence)
    assert weights.dtype == np.float32
    assert ((weights >= 0) & (weights <= 1)).all()
    assert weights[2] == 0


def test_confidence_ignores_a_coin_toss_and_trusts_a_sure_answer() -> None:
    weights = POLICIES["confidence"](evidence_of([[0.5, 0.5], [0.8, 0.2], [1 - 1e-6, 1e-6]], [1, 1, 1]))
    assert weights[0] == pytest.approx(0, abs=1e-6)
    assert weights[1] == pytest.approx(1 - 0.7219, abs=1e-3)
    assert weights[2] == pytest.approx(1, abs=1e-3)


def test_a_wrong_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no weighting named 'trust'; expected known: confidence, none"):
        check_policy("trust", where="students.small.weighting")
