"""Losses of what the teacher sees in a sample (its embedding), against what the student sees, projected into the teacher's space.

Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", whose hint is a squared distance at one layer; here at the last one before the
classes. The projection is trained along and does not ship. A sample without an embedding (NaN, or
None for all of a batch) teaches nothing by it. float32 [B].

Shapes: B batch, D values of the teacher's embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.distill.losses.lesson import Lesson


def hint(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """Mean squared distance over the D values. The temperature has no part in it."""
    seen_BD, projected_BD, there_B = _pair(logits_BK, lesson)
    return (projected_BD - seen_BD).square().mean(1) * there_B


def hint_cosine(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """1 - cosine: the direction alone. The temperature has no part in it."""
    seen_BD, projected_BD, there_B = _pair(logits_BK, lesson)
    return (1 - F.cosine_similarity(projected_BD, seen_BD, dim=1)) * there_B


def _pair(logits_BK: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's embedding, zeros where there is none; the student's; 1 where there is one."""
    projected_BD = logits_BK * 0 if lesson.projected_BD is None else lesson.projected_BD  # no label had an embedding so far
    if lesson.embedding_BD is None:
        return torch.zeros_like(projected_BD), projected_BD, projected_BD.new_zeros(len(projected_BD))
    there_B = torch.isfinite(lesson.embedding_BD).all(1)
    return torch.where(there_B[:, None], lesson.embedding_BD, 0.0), projected_BD, there_B.float()
