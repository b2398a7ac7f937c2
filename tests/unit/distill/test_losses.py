"""Losses against implementations that nobody here wrote, and their invariants."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from sklearn.metrics import log_loss

from pipeline.distill.losses import HINTS, LOSSES, NO_LABEL, Lesson, LossUnknownError, ce, check_losses, mean_loss
from pipeline.distill.losses.divergences import kl
from pipeline.errors import ConfigError


def lesson_of(logits: np.ndarray, hard: list[int] | None = None) -> Lesson:
    return Lesson(
        log_probs_BK=torch.from_numpy(log_softmax(logits, axis=1).astype(np.float32)),
        hard_B=torch.tensor(hard if hard is not None else [NO_LABEL] * len(logits), dtype=torch.int64),
    )


def draw(seed: int, rows: int = 6, classes: int = 4, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (rows, classes)).astype(np.float32)


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
@settings(max_examples=30)
def test_kl_is_scipys_relative_entropy_of_tempered_distributions(seed: int, temperature: float) -> None:
    student, teacher = draw(seed), draw(seed + 1)
    found = kl(torch.from_numpy(student), lesson_of(teacher), temperature=temperature).numpy()
    p, q = softmax(teacher.astype(np.float64) / temperature, axis=1), softmax(student.astype(np.float64) / temperature, axis=1)
    np.testing.assert_allclose(found, rel_entr(p, q).sum(axis=1) * temperature**2, rtol=2e-3, atol=2e-5)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_ce_is_sklearns_log_loss_where_there_is_a_label_and_nothing_where_there_is_none(seed: int) -> None:
    student, hard = draw(seed), [0, 1, 2, 3, NO_LABEL, NO_LABEL]
    found = ce(torch.from_numpy(student), lesson_of(draw(seed + 1), hard), temperature=7.0).numpy()
    expected = log_loss(hard[:4], softmax(student[:4].astype(np.float64), axis=1), labels=range(4))
    assert found[:4].mean() == pytest.approx(expected, rel=1e-4)
    assert (found[4:] == 0).all()


def test_kl_of_a_student_that_is_its_teacher_is_0_and_pulls_nowhere() -> None:
    logits = torch.from_numpy(draw(1)).requires_grad_()
    loss = kl(logits, lesson_of(draw(1)), temperature=2.0).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-5


def test_the_mean_over_uneven_slices_adds_up_to_the_mean_over_the_batch() -> None:
    student, teacher, weight = (
        torch.from_numpy(draw(3)),
        lesson_of(draw(4), [0, 1, NO_LABEL, 3, 0, 2]),
        torch.tensor([1.0, 0, 1, 0.5, 1, 1]),
    )
    options: dict[str, Any] = {"losses": {"kl": 0.7, "ce": 0.3}, "temperature": 2.0, "batch_rows": 6}
    whole = mean_loss(student, teacher, weight_B=weight, **options)
    cut = 0.0
    for s in (slice(0, 1), slice(1, 5), slice(5, 6), slice(6, 6)):
        lesson = Lesson(log_probs_BK=teacher.log_probs_BK[s], hard_B=teacher.hard_B[s])
        cut += mean_loss(student[s], lesson, weight_B=weight[s], **options).item()
    assert whole.item() == pytest.approx(cut, rel=1e-5)


@given(
    loss=st.sampled_from(sorted(LOSSES.keys() - HINTS)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    rows=st.integers(0, 5),
    classes=st.integers(3, 7),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_logits_of_any_precision_are_compared_in_float32(loss: str, dtype: torch.dtype, rows: int, classes: int, seed: int) -> None:
    rounded = torch.from_numpy(draw(seed, rows, classes)).to(dtype).requires_grad_()
    lesson = lesson_of(draw(seed + 1, rows, classes), [row % classes if row % 2 else NO_LABEL for row in range(rows)])
    options: dict[str, Any] = {"weight_B": torch.ones(rows), "losses": {loss: 1.0}, "temperature": 1.0, "batch_rows": 5}
    found = mean_loss(rounded, lesson, **options)
    found.backward()
    assert (found.dtype, found.shape) == (torch.float32, ())
    assert torch.equal(found, mean_loss(rounded.detach().float(), lesson, **options))
    assert rounded.grad is not None
    assert (rounded.grad.dtype, rounded.grad.shape) == (dtype, (rows, classes))
    assert LOSSES[loss](rounded, lesson, temperature=1.0).shape == (rows,)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_sample_of_weight_0_moves_no_other_whatever_its_label_is(loss: str) -> None:
    """`dist` looks across a batch, and 0 times a label of NaN is NaN."""

    def taught(label: float) -> tuple[float, torch.Tensor]:
        logits = torch.from_numpy(draw(5)).requires_grad_()
        lesson = lesson_of(draw(6), [0, 1, NO_LABEL, 3, 0, 2])
        lesson.log_probs_BK[4] = label
        seen = replace(lesson, embedding_BD=lesson.log_probs_BK + 1, projected_BD=logits * 2)
        weight = torch.tensor([1.0, 1, 1, 0.5, 0, 1])
        found = mean_loss(logits, seen, weight_B=weight, losses={loss: 1.0}, temperature=1.0, batch_rows=6)
        found.backward()
        assert logits.grad is not None
        return found.item(), logits.grad

    (loss_here, grad_here), (loss_there, grad_there) = taught(-1.0), taught(torch.nan)
    assert loss_here == loss_there != 0
    assert torch.equal(grad_here, grad_there)
    assert not grad_here[4].any()
    assert grad_here[3].any()


def test_a_batch_of_which_nothing_counts_teaches_nothing() -> None:
    logits = torch.from_numpy(draw(5)).requires_grad_()
    losses = dict.fromkeys(LOSSES.keys() - HINTS, 1.0)
    found = mean_loss(logits, lesson_of(draw(6)), weight_B=torch.zeros(6), losses=losses, temperature=1.0, batch_rows=6)
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_loss_computes_where_its_logits_are(loss: str) -> None:
    """`meta` computes nothing, and refuses tensors of another device as a GPU does."""
    logits = torch.from_numpy(draw(5)).to("meta").requires_grad_()
    lesson = replace(lesson_of(draw(6), [0, 1, NO_LABEL, 3, 0, 2]), embedding_BD=torch.zeros(6, 4)).to(torch.device("meta"))
    lesson = replace(lesson, projected_BD=logits * 2)
    found = LOSSES[loss](logits, lesson, temperature=1.0)
    found.sum().backward()
    assert (found.device.type, found.shape) == ("meta", (6,))


def test_a_wrong_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LossUnknownError, match=r"students\.small\.loss: no loss named 'kll'; expected known: ce, dist, dkd, .*"):
        check_losses({"kll": 1.0}, where="students.small.loss")
    for nothing in ({}, {"kl": 0.0}, {"kl": -1.0}):
        with pytest.raises(ConfigError):
            check_losses(nothing, where="here")
