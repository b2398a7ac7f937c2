"""Every divergence against its formula in scipy's float64, its limits and its invariants; gradients where they decide."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr, zscore

from pipeline.distill.losses import HINTS, LOSSES, NO_LABEL, Lesson, check_losses
from pipeline.distill.losses.divergences import dist, dkd, jsd, kl, reverse_kl, skew_kl, skew_reverse_kl, standardised_kl
from pipeline.errors import ConfigError
from tests.unit.distill.test_losses import draw, lesson_of

TEMPERATURES = st.floats(0.5, 8)
SEEDS = st.integers(0, 1000)


def both(seed: int, temperature: float, scale: float = 3.0) -> tuple[torch.Tensor, Lesson, np.ndarray, np.ndarray]:
    """The student's logits and the lesson, and both sides' probabilities in float64."""
    student, teacher = draw(seed, scale=scale), draw(seed + 1, scale=scale)
    p, q = (softmax(logits.astype(np.float64) / temperature, axis=1) for logits in (teacher, student))
    return torch.from_numpy(student), lesson_of(teacher), p, q


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return rel_entr(p, q).sum(axis=1)


@given(seed=SEEDS, temperature=TEMPERATURES, share=st.floats(0.05, 0.95))
@settings(max_examples=40)
def test_divergences_are_what_scipys_relative_entropy_says_of_their_formulas(seed: int, temperature: float, share: float) -> None:
    logits, lesson, p, q = both(seed, temperature)
    m = share * p + (1 - share) * q
    t = temperature
    pairs = (
        (reverse_kl(logits, lesson, temperature=t), divergence(q, p)),
        (
            jsd(logits, lesson, temperature=t, beta=share),
            (share * divergence(p, m) + (1 - share) * divergence(q, m)) / (share * (1 - share)),
        ),
        (skew_kl(logits, lesson, temperature=t, alpha=share), divergence(p, m)),
        (skew_reverse_kl(logits, lesson, temperature=t, alpha=share), divergence(q, share * q + (1 - share) * p)),
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found.numpy(), expected * t**2, rtol=5e-3, atol=2e-4)


@given(seed=SEEDS, temperature=st.floats(1, 8))
@settings(max_examples=20)
def test_jsd_ends_in_the_two_directions_of_kl_with_gradients_of_their_size(seed: int, temperature: float) -> None:
    """Undivided it would vanish at both ends, and a sweep over beta would be one over the learning rate."""
    for beta, end in ((1e-3, kl), (1 - 1e-3, reverse_kl)):
        logits, lesson, _, _ = both(seed, temperature, scale=1.0)
        near, at = (logits.clone().requires_grad_() for _ in range(2))
        jsd(near, lesson, temperature=temperature, beta=beta).sum().backward()
        end(at, lesson, temperature=temperature).sum().backward()
        assert near.grad is not None
        assert at.grad is not None
        np.testing.assert_allclose(near.grad, at.grad, rtol=0.1, atol=0.05 * float(at.grad.abs().max()))


@given(seed=SEEDS, temperature=TEMPERATURES)
@settings(max_examples=30)
def test_dkd_with_the_weights_that_kl_has_is_kl(seed: int, temperature: float) -> None:
    """KL = TCKD + (1 - p_target) NCKD, sample by sample: Zhao et al. 2022, equation 6."""
    logits, lesson, p, q = both(seed, temperature)
    target = p.argmax(axis=1)
    for row in range(len(p)):
        one = Lesson(log_probs_BK=lesson.log_probs_BK[row : row + 1], hard_B=torch.tensor([int(target[row])]))
        found = dkd(logits[row : row + 1], one, temperature=temperature, alpha=1.0, beta=float(1 - p[row, target[row]]))
        assert found.item() == pytest.approx(divergence(p, q)[row] * temperature**2, rel=5e-3, abs=2e-4)


def test_dkd_takes_the_hard_label_for_its_target_and_without_one_the_teachers_first_class() -> None:
    logits, lesson, p, _ = both(1, 1.0)
    first = torch.from_numpy(p.argmax(axis=1))
    told, other = (Lesson(log_probs_BK=lesson.log_probs_BK, hard_B=hard) for hard in (first, (first + 1) % p.shape[1]))
    untold = dkd(logits, lesson, temperature=1.0)
    assert torch.equal(untold, dkd(logits, told, temperature=1.0))
    assert not torch.allclose(untold, dkd(logits, other, temperature=1.0))


@given(seed=SEEDS, temperature=TEMPERATURES, scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=20)
def test_a_standardised_student_may_have_any_scale_and_offset(seed: int, temperature: float, scale: float, shift: float) -> None:
    logits, lesson, _, _ = both(seed, temperature)
    here, there = (standardised_kl(of, lesson, temperature=temperature) for of in (logits, logits * scale + shift))
    np.testing.assert_allclose(here, there, rtol=1e-2, atol=1e-3)
    teacher = lesson.log_probs_BK.numpy().astype(np.float64)
    p, q = (softmax(zscore(of, axis=1, ddof=1) / temperature, axis=1) for of in (teacher, logits.numpy().astype(np.float64)))
    np.testing.assert_allclose(here, divergence(p, q) * temperature**2, rtol=5e-3, atol=2e-4)


@given(seed=SEEDS, temperature=TEMPERATURES)
@settings(max_examples=20)
def test_dist_is_what_scipys_pearson_says_of_rows_and_columns(seed: int, temperature: float) -> None:
    logits, lesson, p, q = both(seed, temperature)
    rows = np.array([1 - pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)])
    columns = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(p.T, q.T, strict=True)])
    found = dist(logits, lesson, temperature=temperature, beta=2.0, gamma=0.5).numpy()
    np.testing.assert_allclose(found, (2 * rows + 0.5 * columns) * temperature**2, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"ce", "rs_kd", *HINTS}))
def test_a_student_that_is_its_teacher_has_nothing_to_learn(loss: str) -> None:
    logits = torch.from_numpy(draw(1)).requires_grad_()
    found = LOSSES[loss](logits, lesson_of(draw(1)), temperature=1.0)
    found.sum().backward()
    assert found.abs().max() < 1e-4
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-4


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {*HINTS}))
def test_extreme_logits_give_finite_losses_and_gradients(loss: str) -> None:
    """The authors' dkd takes the logarithm of a softmax, which is -inf for a confident student."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    lesson = Lesson(log_probs_BK=torch.tensor([[-30.0, 0.0, -30.0]] * 3), hard_B=torch.tensor([1, NO_LABEL, 0]))
    found = LOSSES[loss](logits, lesson, temperature=1.0)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {*HINTS}))
def test_even_logits_have_a_bounded_gradient(loss: str) -> None:
    """What brings each row to deviation 1 divides by its deviation: unbounded, one flat row would outweigh all others."""
    for classes, spread in itertools.product((3, 100), (0.0, 1e-9, 1e-6, 1e-4, 1e-2)):
        even = torch.from_numpy(draw(1, 8, classes, scale=1.0) * spread + 0.5).requires_grad_()
        found = LOSSES[loss](even, lesson_of(draw(2, 8, classes), [0] * 8), temperature=1.0)
        found.mean().backward()
        assert torch.isfinite(found).all()
        assert even.grad is not None
        assert even.grad.abs().max() < 500


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {*HINTS}))
def test_a_worker_without_rows_has_an_empty_loss_that_can_be_differentiated(loss: str) -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    lesson = Lesson(log_probs_BK=torch.zeros(0, 4), hard_B=torch.zeros(0, dtype=torch.int64))
    found = LOSSES[loss](logits, lesson, temperature=1.0)
    assert found.shape == (0,)
    found.sum().backward()


def test_what_a_loss_cannot_do_is_refused_before_training() -> None:
    where = "students.small.loss"
    check_losses({"dkd": 1.0, "jsd": 0.5}, where=where, classes=3, temperature=4.0, options={"dkd": {"beta": 2.0}, "jsd": {"beta": 0.1}})
    with pytest.raises(ConfigError, match="dkd with 2 classes"):
        check_losses({"dkd": 1.0}, where=where, classes=2)
    with pytest.raises(ConfigError, match=r"ghost with a temperature of 2; expected 1, at which"):
        check_losses({"ghost": 1.0}, where=where, temperature=2.0)
    with pytest.raises(ConfigError, match=r"students\.small\.loss_options\.dkd: no option 'gamma'; expected one of: alpha, beta"):
        check_losses({"dkd": 1.0}, where=where, options={"dkd": {"gamma": 1.0}})
    with pytest.raises(ConfigError, match="options of 'dkd'; expected those of what is used: kl"):
        check_losses({"kl": 1.0}, where=where, options={"dkd": {"beta": 1.0}})
    with pytest.raises(ConfigError, match="beta is between 0 and 1"):
        check_losses({"jsd": 1.0}, where=where, options={"jsd": {"beta": 1.0}})
    with pytest.raises(ConfigError, match="beta is 0 or more, found -5"):
        check_losses({"dist": 1.0}, where=where, options={"dist": {"beta": -5.0}})


def test_probabilities_of_the_helpers_add_up() -> None:
    assert np.exp(log_softmax(draw(0), axis=1)).sum(axis=1) == pytest.approx(np.ones(6), abs=1e-5)
