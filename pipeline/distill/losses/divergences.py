"""How far the student's distribution is from the teacher's: every class of both, at one temperature, in log-space.

Each is scaled by T^2, so that its gradient keeps its size as the temperature T changes. Returns float32 [B], nats.

Shapes: B batch, K classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.distill.losses.lesson import Lesson

FLAT = 1e-3
"""A deviation below it counts as this. What is brought to deviation 1 has a gradient of one over its deviation: at the 1e-7 of Sun et al.
one sample whose logits are alike outweighs a million others. Logits that differ by a thousandth are no answer yet."""
LEAST_MEAN = 1e-8
"""Of a class's probabilities in a batch, so that dividing by it overflows nothing."""


def kl(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """T^2 KL(p || q), p the teacher's and q the student's: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network"."""
    p_BK, q_BK = _tempered(logits_BK, lesson, temperature)
    return _kl(p_BK, q_BK) * temperature**2


def reverse_kl(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """T^2 KL(q || p): the student keeps to what the teacher finds likely. Gu et al. 2024, "MiniLLM", for single answers."""
    p_BK, q_BK = _tempered(logits_BK, lesson, temperature)
    return _kl(q_BK, p_BK) * temperature**2


def jsd(logits_BK: Tensor, lesson: Lesson, *, temperature: float, beta: float = 0.5) -> Tensor:
    """T^2 / (beta (1 - beta)) of beta KL(p || m) + (1 - beta) KL(q || m), where m = beta p + (1 - beta) q.

    Agarwal et al. 2024, "On-Policy Distillation of Language Models" (GKD), whose loss is beta (1 - beta) times this one and goes to 0 with
    beta, so that a sweep over beta there is one over the learning rate, too. Divided, it goes to KL(p || q) at 0 and KL(q || p) at 1.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta is between 0 and 1, found {beta}; `kl` and `reverse_kl` are its ends")
    p_BK, q_BK = _tempered(logits_BK, lesson, temperature)
    m_BK = torch.logaddexp(p_BK + math.log(beta), q_BK + math.log1p(-beta))
    mixed_B = beta * _kl(p_BK, m_BK) + (1 - beta) * _kl(q_BK, m_BK)
    return mixed_B * (temperature**2 / (beta * (1 - beta)))


def skew_kl(logits_BK: Tensor, lesson: Lesson, *, temperature: float, alpha: float = 0.1) -> Tensor:
    """T^2 KL(p || alpha p + (1 - alpha) q): bounded where the student gives nothing. Ko et al. 2024, "DistiLLM"; theirs is alpha = 0.1."""
    p_BK, q_BK = _tempered(logits_BK, lesson, temperature)
    return _kl(p_BK, _mixture(p_BK, q_BK, alpha)) * temperature**2


def skew_reverse_kl(logits_BK: Tensor, lesson: Lesson, *, temperature: float, alpha: float = 0.1) -> Tensor:
    """T^2 KL(q || alpha q + (1 - alpha) p): Ko et al. 2024, "DistiLLM"; theirs is alpha = 0.1."""
    p_BK, q_BK = _tempered(logits_BK, lesson, temperature)
    return _kl(q_BK, _mixture(q_BK, p_BK, alpha)) * temperature**2


def standardised_kl(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """T^2 KL of both sides' logits after each row was brought to mean 0 and deviation 1: the student need not copy the teacher's scale.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation"; theirs is T = 2 and a weight of 9 beside 0.1 of `ce`.
    Log-probabilities are logits but for a constant of each row, which standardising takes away. Near even logits are not stretched to
    deviation 1 (`FLAT`), where the authors' code does it.
    """
    teacher_BK = F.log_softmax(_standardised(lesson.log_probs_BK) / temperature, dim=1)
    student_BK = F.log_softmax(_standardised(logits_BK) / temperature, dim=1)
    return _kl(teacher_BK, student_BK) * temperature**2


def dkd(logits_BK: Tensor, lesson: Lesson, *, temperature: float, alpha: float = 1.0, beta: float = 8.0) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD): the target class against all others, and the others among themselves, each with its own weight.

    Zhao et al. 2022, "Decoupled Knowledge Distillation"; theirs is alpha = 1, beta = 8, T = 4 for CIFAR-100. KL is TCKD +
    (1 - p_target) NCKD. The target is the source's hard label, and where there is none the teacher's likeliest class. Needs three classes:
    of two, there are no others to compare.
    """
    _refuse_negative(alpha=alpha, beta=beta)
    if logits_BK.shape[1] < 3:
        raise ValueError(f"dkd needs three classes or more, found {logits_BK.shape[1]}")
    target_B1 = torch.where(lesson.hard_B >= 0, lesson.hard_B, lesson.log_probs_BK.argmax(1))[:, None]
    p_BK, q_BK = _tempered(logits_BK, lesson, temperature)
    p_target_B1, q_target_B1 = p_BK.gather(1, target_B1), q_BK.gather(1, target_B1)
    others_J = torch.arange(p_BK.shape[1] - 1, device=p_BK.device)
    others_BJ = others_J + (others_J >= target_B1)
    p_others_BJ, q_others_BJ = (of_BK.gather(1, others_BJ) for of_BK in (p_BK, q_BK))
    p_rest_B1, q_rest_B1 = p_others_BJ.logsumexp(1, keepdim=True), q_others_BJ.logsumexp(1, keepdim=True)
    target_B = _kl(torch.cat([p_target_B1, p_rest_B1], dim=1), torch.cat([q_target_B1, q_rest_B1], dim=1))
    others_B = _kl(p_others_BJ - p_rest_B1, q_others_BJ - q_rest_B1)
    return (alpha * target_B + beta * others_B) * temperature**2


def dist(logits_BK: Tensor, lesson: Lesson, *, temperature: float, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """T^2 (beta (1 - r of each sample's classes) + gamma (1 - r of each class's samples)), r Pearson's correlation of probabilities.

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher" (DIST); theirs is beta = gamma = 1. A correlation asks for less
    than equal values: a strong teacher's scale need not be met. The second part looks across the batch, so it is the same number for
    every sample, and sees only the rows of weight that one worker holds. Probabilities that deviate from their mean by less than `FLAT` of
    it correlate as if by that much, where the authors' code has no bound that matters.
    """
    _refuse_negative(beta=beta, gamma=gamma)
    if not len(logits_BK):
        return logits_BK.sum(1)
    p_BK, q_BK = (log_probs_BK.exp() for log_probs_BK in _tempered(logits_BK, lesson, temperature))
    within_B, across_K = 1 - _pearson(p_BK, q_BK, dim=1), 1 - _pearson(p_BK, q_BK, dim=0)
    return (beta * within_B + gamma * across_K.mean()) * temperature**2


def _refuse_negative(**weights: float) -> None:
    """Raises ValueError: a part of a loss that is learnt the wrong way round."""
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{name} is 0 or more, found {weight:g}")


def _tempered(logits_BK: Tensor, lesson: Lesson, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the teacher and of the student."""
    return F.log_softmax(lesson.log_probs_BK / temperature, dim=1), F.log_softmax(logits_BK / temperature, dim=1)


def _kl(of_BK: Tensor, against_BK: Tensor) -> Tensor:
    """KL(of || against) of log-probabilities."""
    return F.kl_div(against_BK, of_BK, log_target=True, reduction="none").sum(1)


def _mixture(first_BK: Tensor, second_BK: Tensor, share: float) -> Tensor:
    if not 0 < share < 1:
        raise ValueError(f"alpha is between 0 and 1, found {share}")
    return torch.logaddexp(first_BK + math.log(share), second_BK + math.log1p(-share))


def _standardised(logits_BK: Tensor) -> Tensor:
    centred_BK = logits_BK - logits_BK.mean(1, keepdim=True)
    variance_B1 = centred_BK.square().sum(1, keepdim=True) / (logits_BK.shape[1] - 1)
    return centred_BK / variance_B1.clamp(min=FLAT**2).sqrt()


def _pearson(first_BK: Tensor, second_BK: Tensor, *, dim: int) -> Tensor:
    first_BK, second_BK = (_relative(values_BK, dim) for values_BK in (first_BK, second_BK))
    return F.cosine_similarity(first_BK, second_BK, dim=dim, eps=FLAT * math.sqrt(first_BK.shape[dim]))


def _relative(probs_BK: Tensor, dim: int) -> Tensor:
    """Deviations from the mean, as shares of it."""
    mean_BK = probs_BK.mean(dim, keepdim=True)
    return (probs_BK - mean_BK) / mean_BK.detach().clamp(min=LEAST_MEAN)
