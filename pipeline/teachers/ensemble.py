"""Several teachers as one: their weighted mean, and how far they are apart.

    probability space   p = sum_m w_m p_m               a mixture: unsure where any member is
    log space           p ~ prod_m p_m ^ w_m            a product of experts: sure where they agree

Disagreement is the generalised Jensen-Shannon divergence of the members in nats, sum_m w_m KL(p_m || sum_m w_m p_m) (Lin 1991), whichever
space the mean is taken in: 0 where all say the same, at most the entropy of the weights. M members, B inputs, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TeacherSection
from pipeline.teachers.checked import CheckedTeacher
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.logits import checked_options
from pipeline.teachers.teacher import Answer, RawTeacher, Teacher, TeacherLoadError

Space = Literal["probability", "log"]


def load_ensemble(section: TeacherSection, *, load: Callable[[TeacherSection], Teacher]) -> RawTeacher:
    """The ensemble of `section.members`, each loaded by `load`. Raises TeacherLoadError and what a member raises."""
    space = checked_options(section, ("space",)).get("space", "probability")
    if space not in get_args(Space):
        expected, remedy = f"one of: {', '.join(get_args(Space))}", "correct `teacher.options` in the run file"
        raise TeacherLoadError(f"teacher {section.use}", f"space = {space!r}", expected, remedy)
    alike = {name: getattr(section, name) for name in ("cpus", "gpus", "backend", "precision", "batch_rows", "workers_max")}
    members = [load(TeacherSection(use=one.use, path=one.path, options=one.options, **alike)) for one in section.members]
    return Ensemble(members, [one.weight for one in section.members], space=space)


class Ensemble:
    """Members that answer in the same order of classes, as one raw teacher."""

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float], *, space: Space) -> None:
        self.classes: Sequence[str] = members[0].classes
        self.fingerprint = fingerprint_of({"members": [member.fingerprint for member in members], "weights": list(weights), "space": space})
        self.deterministic = all(member.deterministic for member in members)
        self._members, self._space = members, space
        self._weights_M = np.asarray(weights, dtype=np.float64) / sum(weights)

    def batches(self, inputs: Any) -> Sequence[NDArray[np.int64]] | None:
        """As the first member likes them that cares."""
        asked = (member.liked_batches(inputs) for member in self._members if isinstance(member, CheckedTeacher))
        return next((liked for liked in asked if liked is not None), None)

    def log_probs(self, inputs: Any) -> Answer:
        log_probs_MBK = np.stack([member.log_probs(inputs) for member in self._members]).astype(np.float64)
        mean_BK = weighted_mean(log_probs_MBK, self._weights_M, space=self._space)
        apart_B = disagreement(log_probs_MBK, self._weights_M)
        return Answer(log_probs_BK=mean_BK.astype(np.float32), disagreement_B=apart_B.astype(np.float32))


def weighted_mean(log_probs_MBK: NDArray[np.float64], weights_M: NDArray[np.float64], *, space: Space) -> NDArray[np.float64]:
    """Log-probabilities [B, K] of the mean; weights are positive and sum to 1. A row in which a member says NaN is NaN.

    In log space a class that any member rules out is ruled out; if that is every class, the row is NaN: a bad sample.
    """
    weights_M11 = weights_M[:, None, None]
    if space == "log":
        with np.errstate(invalid="ignore"):
            scores_BK = (log_probs_MBK * weights_M11).sum(axis=0)
            return np.asarray(scores_BK - _log_sum_exp(scores_BK, axis=1))
    with np.errstate(divide="ignore"):
        return np.asarray(_log_sum_exp(log_probs_MBK + np.log(weights_M11), axis=0)[0])


def disagreement(log_probs_MBK: NDArray[np.float64], weights_M: NDArray[np.float64]) -> NDArray[np.float64]:
    """Generalised Jensen-Shannon divergence [B], in nats; NaN answers give 0, since such a row has no label."""
    mean_BK = weighted_mean(log_probs_MBK, weights_M, space="probability")
    probs_MBK = np.exp(log_probs_MBK)
    with np.errstate(invalid="ignore"):
        terms_MBK = np.where(probs_MBK > 0, probs_MBK * (log_probs_MBK - mean_BK), 0)
    return np.asarray(np.maximum(np.nan_to_num((weights_M[:, None] * terms_MBK.sum(axis=2)).sum(axis=0)), 0))


def _log_sum_exp(scores: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    greatest = scores.max(axis=axis, keepdims=True)
    finite = np.where(np.isneginf(greatest), 0, greatest)
    with np.errstate(divide="ignore"):
        return np.asarray(finite + np.log(np.exp(scores - finite).sum(axis=axis, keepdims=True)))
