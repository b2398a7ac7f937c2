"""Losses of distillation, in one dict. A new loss is one function, one line in `LOSSES`, one test.

A loss maps the student's logits and what is known of each sample to one number a sample, in nats; weighting and the mean over the
batch are `mean_loss`'s business. Teachers' log-probabilities are stored at temperature 1. From the dense codec, which keeps every class,
any other temperature follows, up to the rounding of fp16; from a sparse one (`top_k`, `sampled`) only approximately, since a temperature
moves mass into classes that have no record. All in log-space: a confident teacher or student overflows nothing.

Shapes: B batch, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import DESCRIBED, ConfigError

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is known of B samples."""

    log_probs_BK: Tensor
    """The teacher's natural log-probabilities at temperature 1, float32."""
    hard_B: Tensor
    """int64 class of the source, NO_LABEL where it has none."""


class Loss(Protocol):
    def __call__(self, logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor: ...


class LossUnknownError(ConfigError):
    """A loss that kdpipe does not have."""


def kl(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student), both at temperature T. Returns float32 [B], nats.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network"; T^2 keeps the gradient's size as T changes.
    """
    teacher_BK = F.log_softmax(lesson.log_probs_BK / temperature, dim=1)
    student_BK = F.log_softmax(logits_BK / temperature, dim=1)
    return F.kl_div(student_BK, teacher_BK, log_target=True, reduction="none").sum(1) * temperature**2


def ce(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """Cross-entropy with the hard label where there is one, else 0. The temperature has no part in it. Returns float32 [B], nats."""
    return F.cross_entropy(logits_BK, lesson.hard_B, ignore_index=NO_LABEL, reduction="none")


LOSSES: Mapping[str, Loss] = {"kl": kl, "ce": ce}


def mean_loss(
    logits_BK: Tensor, lesson: Lesson, *, weight_B: Tensor, losses: Mapping[str, float], temperature: float, batch_rows: int
) -> Tensor:
    """The weighted sum of the named losses, added up over these samples and divided by `batch_rows`.

    `batch_rows` counts the whole batch: where ranks hold slices of it, the sum over ranks is the mean over the batch, also for
    uneven slices. A sample of weight 0 counts as a sample that teaches nothing.
    """
    total_B = sum(
        (share * LOSSES[name](logits_BK, lesson, temperature=temperature) for name, share in losses.items()),
        start=torch.zeros_like(weight_B),
    )
    return (total_B * weight_B).sum() / batch_rows


def check_losses(losses: Mapping[str, float], *, where: str) -> None:
    """Raises LossUnknownError for a name that is not in `LOSSES`, ConfigError where nothing would be learnt."""
    for name in losses:
        if name not in LOSSES:
            raise LossUnknownError(where, f"no loss named {name!r}", f"known: {', '.join(sorted(LOSSES))}")
    if not losses or any(share < 0 for share in losses.values()) or not any(losses.values()):
        raise ConfigError(where, f"{dict(losses)}", "at least one loss, of a weight above 0", DESCRIBED)
