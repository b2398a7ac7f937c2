"""Losses of sparse labels by what must hold of them: nobody else's implementation is to be had."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distill.losses import Lesson, Recorded
from pipeline.distill.losses.divergences import kl
from pipeline.distill.losses.sparse import ghost, rs_kd
from pipeline.labels.codecs.codec import SparseLabels
from pipeline.labels.codecs.sampled import Sampled
from pipeline.labels.codecs.top_k import TopK
from tests.unit.distill.test_losses import draw, lesson_of

SEEDS = st.integers(0, 1000)


def recorded_of(labels: SparseLabels) -> Recorded:
    return Recorded(
        ids_BR=torch.from_numpy(labels.ids_NR.astype(np.int64)),
        log_probs_BR=torch.from_numpy(np.array(labels.log_probs_NR)),
        tail_B=torch.from_numpy(np.array(labels.tail_N)),
    )


def exact_top(lesson: Lesson, k: int) -> Lesson:
    """The k likeliest classes with their tail, without the rounding of a codec."""
    top = lesson.log_probs_BK.topk(k, dim=1)
    tail = torch.log((1 - top.values.exp().sum(1)).clamp(min=0))
    return Lesson(
        log_probs_BK=lesson.log_probs_BK, hard_B=lesson.hard_B, recorded=Recorded(ids_BR=top.indices, log_probs_BR=top.values, tail_B=tail)
    )


@given(seed=SEEDS, classes=st.integers(3, 12))
@settings(max_examples=30)
def test_a_bucket_of_one_class_hides_nothing(seed: int, classes: int) -> None:
    student, lesson = torch.from_numpy(draw(seed, classes=classes)), lesson_of(draw(seed + 1, classes=classes))
    full, bucketed = kl(student, lesson, temperature=1.0), ghost(student, exact_top(lesson, classes - 1), temperature=1.0)
    np.testing.assert_allclose(bucketed, full, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ghost(student, lesson, temperature=1.0), full, rtol=1e-3, atol=1e-4)


@given(seed=SEEDS, k=st.integers(1, 7))
@settings(max_examples=30)
def test_a_bucket_never_asks_for_more_than_the_whole_answer(seed: int, k: int) -> None:
    """Joining classes can't increase KL: the data-processing inequality. Renormalising without the tail could."""
    student, lesson = torch.from_numpy(draw(seed, classes=8)), lesson_of(draw(seed + 1, classes=8))
    assert (ghost(student, exact_top(lesson, k), temperature=1.0) <= kl(student, lesson, temperature=1.0) + 1e-3).all()


def test_a_tail_teaches_that_other_classes_are_possible() -> None:
    """A student sure of the one recorded class is pulled back to the mass that was recorded, not pushed to certainty."""
    logits = torch.tensor([[20.0, 0.0, 0.0, 0.0]], requires_grad=True)
    recorded = Recorded(ids_BR=torch.tensor([[0]]), log_probs_BR=torch.tensor([[0.6]]).log(), tail_B=torch.tensor([0.4]).log())
    lesson = Lesson(log_probs_BK=torch.tensor([[0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3]]).log(), hard_B=torch.tensor([-1]), recorded=recorded)
    ghost(logits, lesson, temperature=1.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] == pytest.approx(0.4, abs=1e-4)


@given(seed=SEEDS, k=st.integers(1, 7))
@settings(max_examples=20)
def test_labels_of_the_top_k_codec_teach_as_their_exact_values_do_up_to_fp16(seed: int, k: int) -> None:
    student, lesson = torch.from_numpy(draw(seed, classes=8)), lesson_of(draw(seed + 1, classes=8))
    codec = TopK(k=k)
    column = codec.encode(lesson.log_probs_BK.numpy(), np.arange(6))
    stored = Lesson(log_probs_BK=lesson.log_probs_BK, hard_B=lesson.hard_B, recorded=recorded_of(codec.sparse(column, 8)))
    found, exact = (ghost(student, of, temperature=1.0) for of in (stored, exact_top(lesson, k)))
    np.testing.assert_allclose(found, exact, rtol=2e-2, atol=2e-2)


def test_the_mean_gradient_of_drawn_labels_is_that_of_the_full_answer() -> None:
    teacher, student, draws = draw(3, rows=1, classes=20, scale=1.0), draw(4, rows=1, classes=20, scale=1.0), 4000
    full = torch.from_numpy(student).requires_grad_()
    kl(full, lesson_of(teacher), temperature=1.0).sum().backward()
    lesson = lesson_of(np.repeat(teacher, draws, axis=0))
    codec = Sampled(draws=5)
    column: pa.Array = codec.encode(lesson.log_probs_BK.numpy(), np.arange(draws))
    drawn = torch.from_numpy(np.repeat(student, draws, axis=0)).requires_grad_()
    stored = Lesson(log_probs_BK=lesson.log_probs_BK, hard_B=lesson.hard_B, recorded=recorded_of(codec.sparse(column, 20)))
    rs_kd(drawn, stored, temperature=1.0).mean().backward()
    assert full.grad is not None
    assert drawn.grad is not None
    np.testing.assert_allclose(drawn.grad.sum(0), full.grad[0], atol=0.01)
    single = (drawn.grad * draws - full.grad).abs().max(dim=1).values
    assert single.median() > 0.05  # one label alone says much less: it is the mean that is right
