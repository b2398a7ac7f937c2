"""Losses of labels that have a record of some classes only. At temperature 1, at which they were recorded: a temperature moves mass into
classes without a record, and how much nobody knows.

Returns float32 [B], nats. Shapes: B batch, K classes, R classes recorded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.distill.losses.lesson import Lesson, Recorded

LEAST_NATS = -1e4
"""Stands in for -inf where it is multiplied by its probability: the product is 0, not NaN."""


def ghost(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """KL(p || q) over the recorded classes and one more: all that has no record, matched with the student's mass there.

    The bucket keeps a top-k label from teaching a student that nothing else can be. With every class but one recorded it is the full KL.
    """
    recorded = _recorded(lesson)
    log_q_BK = F.log_softmax(logits_BK, dim=1)
    is_entry_BR = (recorded.log_probs_BR > -torch.inf).to(log_q_BK.dtype)
    inside_BK = torch.zeros_like(log_q_BK).scatter_add_(1, recorded.ids_BR, is_entry_BR) > 0  # a row's filling names class 0, too
    log_q_tail_B = log_q_BK.masked_fill(inside_BK, LEAST_NATS).logsumexp(1)
    log_p = torch.cat([recorded.log_probs_BR, recorded.tail_B[:, None]], dim=1)
    log_q = torch.cat([log_q_BK.gather(1, recorded.ids_BR), log_q_tail_B[:, None]], dim=1)
    return (log_p.exp() * (log_p.clamp(min=LEAST_NATS) - log_q.clamp(min=LEAST_NATS))).sum(1)


def rs_kd(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """Cross-entropy with the classes that were drawn: its gradient, over many labels of one answer, is that of the full answer.

    Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs" (RS-KD). The value is KL plus the entropy of
    what was drawn, which no student can change.
    """
    recorded = _recorded(lesson)
    log_q_BR = F.log_softmax(logits_BK, dim=1).gather(1, recorded.ids_BR)
    return -(recorded.log_probs_BR.exp() * log_q_BR.clamp(min=LEAST_NATS)).sum(1)


def _recorded(lesson: Lesson) -> Recorded:
    """What was recorded; of a dense label, every class."""
    if lesson.recorded is not None:
        return lesson.recorded
    log_probs_BK = lesson.log_probs_BK
    ids_BK = torch.arange(log_probs_BK.shape[1], device=log_probs_BK.device).expand(log_probs_BK.shape)
    return Recorded(ids_BR=ids_BK, log_probs_BR=log_probs_BK, tail_B=log_probs_BK.new_full((len(log_probs_BK),), -torch.inf))
