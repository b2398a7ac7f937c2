"""Losses of distillation, in one dict. A new loss is one function, one line in `LOSSES`, one test.

A loss maps the student's logits and what is known of each sample to one number a sample, in nats; weighting and the mean over the
batch are `mean_loss`'s business. Teachers' log-probabilities are stored at temperature 1. From the dense codec, which keeps every class,
any other temperature follows, up to the rounding of fp16; from a sparse one (`top_k`, `sampled`) only approximately, since a temperature
moves mass into classes that have no record. All in log-space: a confident teacher or student overflows nothing.

Shapes: B batch, K classes.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.distill.losses.divergences import dist, dkd, jsd, kl, reverse_kl, skew_kl, skew_reverse_kl, standardised_kl
from pipeline.distill.losses.hint import hint, hint_cosine
from pipeline.distill.losses.lesson import NO_LABEL, Lesson, Recorded
from pipeline.distill.losses.sparse import ghost, rs_kd
from pipeline.errors import DESCRIBED, ConfigError
from pipeline.options import Options, check_options

__all__ = [
    "AT_TEMPERATURE_1",
    "HINTS",
    "LOSSES",
    "NO_LABEL",
    "Lesson",
    "Loss",
    "LossUnknownError",
    "Recorded",
    "check_losses",
    "is_approximate",
    "mean_loss",
]


class Loss(Protocol):
    def __call__(self, logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor: ...


class LossUnknownError(ConfigError):
    """A loss that kdpipe does not have."""


def ce(logits_BK: Tensor, lesson: Lesson, *, temperature: float) -> Tensor:
    """Cross-entropy with the hard label where there is one, else 0. The temperature has no part in it. Returns float32 [B], nats."""
    return F.cross_entropy(logits_BK, lesson.hard_B, ignore_index=NO_LABEL, reduction="none")


LOSSES: Mapping[str, Loss] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "standardised_kl": standardised_kl,
    "dkd": dkd,
    "dist": dist,
    "ghost": ghost,
    "hint": hint,
    "hint_cosine": hint_cosine,
    "rs_kd": rs_kd,
    "ce": ce,
}
AT_TEMPERATURE_1 = ("ghost", "rs_kd")
UNBIASED_ON_DRAWS = ("ce", "ghost", "hint", "hint_cosine", "kl", "rs_kd")
"""Losses whose gradient is linear in the teacher's probabilities, `kl` at temperature 1, or has none of them: its mean over drawn labels is
that of the full answer."""
HINTS = ("hint", "hint_cosine")
"""Losses of embeddings: of the teacher's, and of the student's projected into their space."""

_GIVEN = ("logits_BK", "lesson", "temperature")


def mean_loss(
    logits_BK: Tensor,
    lesson: Lesson,
    *,
    weight_B: Tensor,
    losses: Mapping[str, float],
    temperature: float,
    batch_rows: int,
    options: Options | None = None,
) -> Tensor:
    """The weighted sum of the named losses, added up over these samples and divided by `batch_rows`.

    `batch_rows` counts the whole batch: where ranks hold slices of it, the sum over ranks is the mean over the batch, also for
    uneven slices. A sample of weight 0 counts as a sample that teaches nothing: no loss sees it, neither beside others nor where its label
    is NaN. Logits of any precision are compared in float32, in which the result is.
    """
    counts_B = weight_B != 0  # NaN counts: a step of it is to be skipped
    if not bool(counts_B.all()):
        logits_BK, lesson, weight_B = logits_BK[counts_B], lesson.rows(counts_B), weight_B[counts_B]
    own, said_BK = options or {}, logits_BK.float()
    total_B = sum(
        (share * LOSSES[name](said_BK, lesson, temperature=temperature, **own.get(name, {})) for name, share in losses.items()),
        start=torch.zeros_like(weight_B),
    )
    return (total_B * weight_B).sum() / batch_rows


def check_losses(
    losses: Mapping[str, float],
    *,
    where: str,
    classes: int | None = None,
    temperature: float = 1.0,
    options: Options | None = None,
    codec: str | None = None,
) -> None:
    """Raises LossUnknownError for a name that is not in `LOSSES`, ConfigError where nothing would be learnt or a loss can't be had.

    `codec` is what labels are stored by, where that is known: a loss that would learn something else from it than the teacher is refused.
    """
    for name in losses:
        if name not in LOSSES:
            raise LossUnknownError(where, f"no loss named {name!r}", f"known: {', '.join(sorted(LOSSES))}", DESCRIBED)
        if name in AT_TEMPERATURE_1 and temperature != 1:
            found = f"{name} with a temperature of {temperature:g}"
            raise ConfigError(where, found, "1, at which sparse labels are recorded", "set `temperature = 1`")
    if not losses or any(share < 0 for share in losses.values()) or not any(losses.values()):
        raise ConfigError(where, f"{dict(losses)}", "at least one loss, of a weight above 0", DESCRIBED)
    if "dkd" in losses and classes is not None and classes < 3:
        found = f"dkd with {classes} classes"
        raise ConfigError(where, found, "three or more, since of two there are no others to compare", "take `kl`")
    for name in losses:
        _check_codec(name, codec, temperature, where=where)
    check_options(options or {}, {name: LOSSES[name] for name in losses}, given=_GIVEN, where=f"{where}_options")
    _try_options(options or {}, where=f"{where}_options")


def is_approximate(losses: Mapping[str, float], *, temperature: float, codec: str) -> bool:
    """Whether a loss tempers labels of which `top_k` kept a part: how a temperature would divide the rest, nobody knows."""
    tempered = losses.keys() - {"ce", *HINTS, *AT_TEMPERATURE_1}
    return codec == "top_k" and temperature != 1 and bool(tempered)


def _check_codec(name: str, codec: str | None, temperature: float, *, where: str) -> None:
    if codec == "top_k" and name == "rs_kd":
        found = "rs_kd on labels of codec top_k, which takes the likeliest classes for all there are"
        raise ConfigError(where, found, "labels that were drawn, or whole ones", 'set `labelling.codec = "sampled"`, or take `ghost`')
    if codec == "sampled" and (name not in UNBIASED_ON_DRAWS or (name == "kl" and temperature != 1)):
        at = f" at temperature {temperature:g}" if name == "kl" else ""
        found = f"{name}{at} on labels of codec sampled, whose mean over draws is not that of the teacher's answer"
        raise ConfigError(where, found, "rs_kd, or kl with `temperature = 1`", 'or set `labelling.codec = "dense_fp16"` or `"top_k"`')


def _try_options(options: Options, *, where: str) -> None:
    """On one even sample: a loss refuses values that make no sense."""
    even_BK = F.log_softmax(torch.zeros(1, 3), dim=1)
    lesson = Lesson(log_probs_BK=even_BK, hard_B=torch.zeros(1, dtype=torch.int64))
    for name, values in options.items():
        try:
            LOSSES[name](even_BK, lesson, temperature=1.0, **values)
        except ValueError as error:
            raise ConfigError(f"{where}.{name}", repr(dict(values)), str(error), DESCRIBED) from error
