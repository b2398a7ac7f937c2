"""Losses of sparse labels by what must hold of them: nobody else's implementation is to be had."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distill.losses import AT_TEMPERATURE_1, HINTS, LOSSES, Lesson, Recorded, check_losses
from pipeline.distill.losses.divergences import kl
from pipeline.distill.losses.sparse import ghost
from pipeline.errors import ConfigError
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


def gradient(loss: str, student: np.ndarray, lesson: Lesson, temperature: float) -> torch.Tensor:
    """Of the mean over the lesson's rows, by the one row of logits that answers all of them."""
    logits = torch.from_numpy(student).requires_grad_()
    LOSSES[loss](logits.expand(len(lesson.hard_B), -1), lesson, temperature=temperature).mean().backward()
    assert logits.grad is not None
    return logits.grad[0]


SOFT = [
    (loss, temperature) for loss in LOSSES.keys() - {"ce", *HINTS} for temperature in ((1.0,) if loss in AT_TEMPERATURE_1 else (1.0, 2.0))
]


@pytest.mark.parametrize(("loss", "temperature"), sorted(SOFT))
def test_a_loss_is_taken_for_drawn_labels_if_the_mean_of_their_gradients_is_that_of_the_full_answer(loss: str, temperature: float) -> None:
    teacher, student, draws = draw(3, rows=1, classes=20, scale=1.0), draw(4, rows=1, classes=20, scale=1.0), 2000
    whole = lesson_of(np.repeat(teacher, draws, axis=0))
    codec = Sampled(draws=5)
    column: pa.Array = codec.encode(whole.log_probs_BK.numpy(), np.arange(draws))
    drawn = Lesson(
        log_probs_BK=torch.from_numpy(codec.decode(column, 20)), hard_B=whole.hard_B, recorded=recorded_of(codec.sparse(column, 20))
    )
    full, found = (gradient(loss, student, lesson, temperature) for lesson in (whole, drawn))
    off = float((found - full).abs().max() / full.abs().max())
    try:
        check_losses({loss: 1.0}, where="here", temperature=temperature, codec="sampled")
    except ConfigError:
        assert off > 0.05, "refused for nothing"
    else:
        assert off < 0.02


def test_a_likeliest_class_taken_for_all_there_are_teaches_a_surer_answer_than_the_teachers() -> None:
    """Why `rs_kd` is refused on `top_k`, and `ghost` is not."""
    teacher = np.log(np.array([[0.3, 0.2] + [0.5 / 8] * 8], dtype=np.float32))
    top = exact_top(lesson_of(teacher), 2)
    assert gradient("ghost", teacher, top, 1.0).abs().max() < 1e-4
    assert gradient("rs_kd", teacher, top, 1.0)[0] < 0.3 * 0.5 - 0.3 + 1e-4
    check_losses({"ghost": 1.0}, where="here", codec="top_k")
    with pytest.raises(ConfigError, match="rs_kd on labels of codec top_k"):
        check_losses({"rs_kd": 1.0}, where="here", codec="top_k")
