"""How much each sample counts, from the evidence its soft label carries. A new policy is one function and one line in `POLICIES`.

A policy returns weights in [0, 1] and never revives a sample of weight 0 (a label that was forgotten).

Shapes: B batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DESCRIBED, ConfigError

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the labels of B samples say about their own quality."""

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
    classes: int


class Policy(Protocol):
    def __call__(self, evidence: Evidence) -> Floats: ...


def none(evidence: Evidence) -> Floats:
    """Every sample counts the same."""
    return evidence.weight_B


def confidence(evidence: Evidence) -> Floats:
    """1 - H / ln K: the less sure the teacher, the less its answer counts; 0 for an answer that says nothing.

    The weight of Kwon et al. 2020, "Adaptive Knowledge Distillation Based on Entropy", for one teacher.
    """
    sure_B = np.clip(1 - evidence.entropy_B / np.log(evidence.classes), 0, 1)
    return np.asarray(evidence.weight_B * sure_B, dtype=np.float32)


POLICIES: Mapping[str, Policy] = {"none": none, "confidence": confidence}


def check_policy(name: str, *, where: str) -> None:
    """Raises ConfigError for a name that is not in `POLICIES`."""
    if name not in POLICIES:
        raise ConfigError(where, f"no weighting named {name!r}", f"known: {', '.join(sorted(POLICIES))}", DESCRIBED)
