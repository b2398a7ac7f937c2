"""How much each sample counts, from the evidence its soft label carries. A new policy is one function and one line in `POLICIES`.

A policy returns weights in [0, 1]; those of several are multiplied, each raised to the power that the run file gives it. None revives a
sample of weight 0 (a label that was forgotten). What evidence is not there (NaN) counts for nothing: the sample keeps its weight.

Shapes: B batch, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DESCRIBED, ConfigError
from pipeline.options import Options, check_options

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of how much B labels are worth."""

    weight_B: Floats
    """1, or 0 for a sample that was forgotten."""
    entropy_B: Floats
    """Of the teacher's answer, nats."""
    margin_B: Floats
    """Probability of its first class minus that of its second."""
    disagreement_B: Floats
    """Between the members of the teacher, nats; NaN where it is one model."""
    agreement_B: Floats
    """Its probability of the source's hard label; NaN where there is none, or it is none of the classes."""
    teacher_BK: Floats
    """The teacher's probabilities."""
    student_BK: Floats
    """The student's, before this step."""
    prior_K: Floats
    """Mean probability of each class over all labels that were read before this batch; even before the first."""


class Policy(Protocol):
    def __call__(self, evidence: Evidence) -> Floats: ...


def confidence(evidence: Evidence, *, least: float = 0.5) -> Floats:
    """1 - H / ln K, from `least` for an answer that says nothing: the less sure the teacher, the less its answer counts.

    The weight of Kwon et al. 2020, "Adaptive Knowledge Distillation Based on Entropy", for one teacher, is the one with `least` = 0.
    """
    _refuse_no_share(least=least)
    return np.asarray(least + (1 - least) * np.clip(1 - _share_of_entropy(evidence), 0, 1), dtype=np.float32)


def entropy_band(evidence: Evidence, *, low: float = 0.0, high: float = 0.7, outside: float = 0.2) -> Floats:
    """1 where H / ln K is between `low` and `high`, `outside` elsewhere: neither what everybody knows nor what the teacher does not."""
    _refuse_no_share(low=low, high=high, outside=outside)
    if low > high:
        raise ValueError(f"low is at most high, found {low:g} and {high:g}: a band without a sample")
    share_B = _share_of_entropy(evidence)
    return np.where((share_B >= low) & (share_B <= high), np.float32(1), np.float32(outside))


def disagreement(evidence: Evidence, *, scale_nats: float = 0.1) -> Floats:
    """exp(-d / scale): the further the members of a teacher are apart, the less their mean counts."""
    if not scale_nats > 0:
        raise ValueError(f"scale_nats is above 0, found {scale_nats:g}")
    return np.asarray(np.exp(-np.nan_to_num(evidence.disagreement_B) / scale_nats), dtype=np.float32)


def hard_label(evidence: Evidence, *, least: float = 0.1) -> Floats:
    """The teacher's probability of the source's own label, `least` at the least: where the two differ, one of them is wrong."""
    _refuse_no_share(least=least)
    return np.where(np.isnan(evidence.agreement_B), np.float32(1), np.maximum(evidence.agreement_B, np.float32(least)))


def student_gap(evidence: Evidence, *, least: float = 0.7) -> Floats:
    """Total variation between student and teacher, `least` at the least: what the student knows already counts less.

    The focus on hard examples of Lin et al. 2017, "Focal Loss", with a teacher's answer in the label's place.
    """
    _refuse_no_share(least=least)
    apart_B = np.abs(evidence.student_BK - evidence.teacher_BK).sum(1) / 2
    return np.asarray(least + (1 - least) * np.clip(apart_B, 0, 1), dtype=np.float32)


def class_balance(evidence: Evidence) -> Floats:
    """(least prior / prior of the class), by the classes that the teacher sees: rare classes count as much as common ones together."""
    prior_K = np.maximum(evidence.prior_K, np.float32(1e-6))
    return np.asarray(np.clip(evidence.teacher_BK @ (prior_K.min() / prior_K), 0, 1), dtype=np.float32)


POLICIES: Mapping[str, Policy] = {
    "class_balance": class_balance,
    "confidence": confidence,
    "disagreement": disagreement,
    "entropy_band": entropy_band,
    "hard_label": hard_label,
    "student_gap": student_gap,
}


MAX_POWER = 10.0
"""Of a weight of a half, a thousandth is left; beyond it a policy drops samples, and in float32 every sample."""


def weights(evidence: Evidence, policies: Mapping[str, float], options: Options | None = None) -> Floats:
    """float32 [B], in [0, 1]: each policy's weight to its power, multiplied."""
    weight_B = evidence.weight_B
    for name, power in policies.items():
        weight_B = weight_B * POLICIES[name](evidence, **(options or {}).get(name, {})) ** np.float32(power)
    return np.ascontiguousarray(weight_B, dtype=np.float32)


def check_policies(policies: Mapping[str, float], *, where: str, options: Options | None = None) -> None:
    """Raises ConfigError for what is no policy, a power out of bounds, an option that a policy does not have, a value it refuses."""
    for name, power in policies.items():
        if name not in POLICIES:
            raise ConfigError(where, f"no weighting named {name!r}", f"known: {', '.join(sorted(POLICIES))}", DESCRIBED)
        if not 0 < power <= MAX_POWER:
            expected = f"a power above 0, at most {MAX_POWER:g}; leave the policy out to switch it off"
            raise ConfigError(f"{where}.{name}", f"{power:g}", expected, DESCRIBED)
    check_options(options or {}, {name: POLICIES[name] for name in policies}, given=("evidence",), where=f"{where}_options")
    for name, values in (options or {}).items():
        try:
            POLICIES[name](_EVEN, **values)
        except ValueError as error:
            raise ConfigError(f"{where}_options.{name}", repr(dict(values)), str(error), DESCRIBED) from error


def _refuse_no_share(**numbers: float) -> None:
    """Raises ValueError: a weight that is not between 0 and 1 would turn a sample's lesson round, or make it louder than a whole one."""
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{name} is a share of 0 to 1, found {number:g}")


def _share_of_entropy(evidence: Evidence) -> Floats:
    """0 for certainty, 1 for an even answer."""
    return np.asarray(evidence.entropy_B / np.log(evidence.teacher_BK.shape[1]), dtype=np.float32)


_NOTHING_B, _HALVES_BK = np.zeros(1, dtype=np.float32), np.full((1, 2), 0.5, dtype=np.float32)
_EVEN = Evidence(
    weight_B=_NOTHING_B,
    entropy_B=_NOTHING_B,
    margin_B=_NOTHING_B,
    disagreement_B=_NOTHING_B,
    agreement_B=_NOTHING_B,
    teacher_BK=_HALVES_BK,
    student_BK=_HALVES_BK,
    prior_K=_HALVES_BK[0],
)
"""Some sample, to try options on."""
