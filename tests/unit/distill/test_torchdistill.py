"""Losses and gradients against torchdistill's, which nobody here wrote. Read it before trusting it: its KL has no T^2 when alpha is 0."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchdistill.losses.mid_level import DISTLoss, KDLoss, LogitStdKDLoss

from pipeline.distill.losses import LOSSES
from tests.unit.distill.test_losses import draw, lesson_of

PLACES = ("s", "out", "t", "out")


def theirs(name: str, temperature: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The mean over the batch, T^2 included."""
    made: dict[str, tuple[Any, float]] = {
        "kl": (KDLoss(*PLACES, temperature=temperature, alpha=0), temperature**2),
        "standardised_kl": (LogitStdKDLoss(*PLACES, temperature=temperature, alpha=0), temperature**2),
        "dist": (DISTLoss(*PLACES, tau=temperature), 1.0),
    }
    loss, scale = made[name]
    return lambda student, teacher: loss({"s": {"out": student}}, {"t": {"out": teacher}}) * scale


@pytest.mark.parametrize("name", ["kl", "standardised_kl", "dist"])
@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8), classes=st.integers(3, 12))
@settings(max_examples=30)
def test_values_and_gradients_are_torchdistills(name: str, seed: int, temperature: float, classes: int) -> None:
    student, teacher = draw(seed, classes=classes), draw(seed + 1, classes=classes)
    ours, other = (torch.from_numpy(student.copy()).requires_grad_() for _ in range(2))
    found = LOSSES[name](ours, lesson_of(teacher), temperature=temperature).mean()
    expected = theirs(name, temperature)(other, torch.from_numpy(teacher))
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=2e-3, abs=1e-4)
    assert ours.grad is not None
    assert other.grad is not None
    np.testing.assert_allclose(ours.grad, other.grad, rtol=1e-2, atol=1e-4)
