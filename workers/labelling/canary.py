"""Whether the replicas of one teacher say the same: pure decisions over what each says about the same few samples.

A replica on a bad machine (a flipped bit in its weights, another library, a broken GPU) answers well-formed nonsense, which no check of a
single answer finds. So all of them label the canary, and who is far from what most say is taken out. The first answer of each replica is
its vote, and stays when the replica is gone: a second opinion on who was right. Later answers are held against the votes' centre.
N samples, K classes.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

TOLERANCE, TOLERANCE_HALF = 0.01, 0.05
"""Greatest total variation between answers in float32, and in half precision: what another order of summation may come to."""
VOTES_KEPT = 64
TRIES = 2
"""Processes that the canary may end before it is held for the culprit itself."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    worker: str
    log_probs_NK: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Jury:
    """Votes, oldest first; `centre` is what a replica should say, None before the first."""

    tolerance: float | None = None
    """None: by the precision of the answers."""
    votes: tuple[Vote, ...] = ()

    @property
    def centre(self) -> NDArray[np.float32] | None:
        """The vote that most others are close to; of equals the oldest."""
        closest = max(self.votes, key=lambda vote: len(self._agreeing(vote.log_probs_NK)), default=None)
        return None if closest is None else closest.log_probs_NK

    @cached_property
    def undecided(self) -> bool:
        """There are two votes, one against the other: a third will tell."""
        return len(self.votes) == 2 and not self.agrees(self.votes[0].log_probs_NK, self.votes[1].log_probs_NK)

    @property
    def split(self) -> bool:
        """There are three votes or more, and no answer has more than half of them."""
        return len(self.votes) > 2 and (centre := self.centre) is not None and 2 * len(self._agreeing(centre)) <= len(self.votes)

    def agrees(self, log_probs_NK: NDArray[np.float32], with_NK: NDArray[np.float32]) -> bool:
        tolerance = tolerance_for(log_probs_NK, with_NK) if self.tolerance is None else self.tolerance
        return distance(log_probs_NK, with_NK) <= tolerance

    def _agreeing(self, log_probs_NK: NDArray[np.float32]) -> list[str]:
        return [vote.worker for vote in self.votes if self.agrees(vote.log_probs_NK, log_probs_NK)]


def hear(jury: Jury, worker: str, log_probs_NK: NDArray[np.float32]) -> tuple[Jury, frozenset[str]]:
    """The jury with this answer, and which replicas deviate by all that is known: voters of any age, and this one."""
    if all(vote.worker != worker for vote in jury.votes):
        jury = replace(jury, votes=(*jury.votes, Vote(worker=worker, log_probs_NK=log_probs_NK))[-VOTES_KEPT:])
    centre = jury.centre
    assert centre is not None
    far = {vote.worker for vote in jury.votes if not jury.agrees(vote.log_probs_NK, centre)}
    return jury, frozenset(far if jury.agrees(log_probs_NK, centre) else far | {worker})


def distance(first_NK: NDArray[np.float32], second_NK: NDArray[np.float32]) -> float:
    """Greatest total variation over the samples, 0 to 1. A sample that neither could answer counts 0, one that only one could counts 1."""
    apart_N = 0.5 * np.abs(np.exp(first_NK.astype(np.float64)) - np.exp(second_NK.astype(np.float64))).sum(axis=1)
    unanswered_N = np.isnan(first_NK).any(axis=1) & np.isnan(second_NK).any(axis=1)
    apart_N = np.where(unanswered_N, 0.0, np.where(np.isnan(apart_N), 1.0, apart_N))
    return float(apart_N.max(initial=0.0))


def tolerance_for(*answers_NK: NDArray[np.float32]) -> float:
    """By the coarsest of the answers: values that all fit into 16 bits were computed in half precision."""
    return TOLERANCE_HALF if any(_is_half(answer_NK) for answer_NK in answers_NK) else TOLERANCE


def _is_half(answer_NK: NDArray[np.float32]) -> bool:
    values = answer_NK[np.isfinite(answer_NK)]
    with np.errstate(over="ignore"):
        fp16 = bool((values.astype(np.float16).astype(np.float32) == values).all())
    bf16 = bool((np.ascontiguousarray(values).view(np.uint32) & 0xFFFF == 0).all())
    return len(values) > 0 and (fp16 or bf16)
