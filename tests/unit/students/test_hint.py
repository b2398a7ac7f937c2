"""A student that learns to see what its teacher sees."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.distill.losses import LOSSES, Lesson
from pipeline.labels.order import Cursor
from pipeline.labels.reader import LabelBatch
from pipeline.students.hint import HintImpossibleError
from tests.kit.students import finish, mails, reader_of, spec, trainer_of, weights

VALUES = 5


class Seeing:
    """A reader whose labels have embeddings: a fixed function of what the teacher says, none in every seventh row."""

    def __init__(self, rows: int = 60, **options: Any) -> None:
        self._reader = reader_of(mails(rows), **options)
        self._basis = np.random.default_rng(1).normal(size=(2, VALUES)).astype(np.float32)

    def start(self) -> Cursor:
        return self._reader.start()

    def read(self, cursor: Cursor) -> Any:
        found = self._reader.read(cursor)
        if not isinstance(found, LabelBatch):
            return found
        seen_BD = np.exp(found.log_probs_BK) @ self._basis
        seen_BD[found.rows_B % 7 == 0] = np.nan
        return replace(found, embedding_BD=seen_BD)


@pytest.mark.parametrize("loss", ["hint", "hint_cosine"])
def test_a_student_comes_to_see_what_its_teacher_sees(loss: str) -> None:
    trainer, _ = trainer_of(spec(steps=150, loss={loss: 1.0}), Seeing())
    finish(trainer)
    losses = [of for _, of in trainer.history]
    assert losses[-1] < losses[0] / 4


def test_a_hint_beside_kl_survives_a_restart_to_the_bit_and_does_not_ship() -> None:
    made = spec(loss={"kl": 1.0, "hint": 0.5})
    whole, student = trainer_of(made, Seeing())
    finish(whole)
    first, _ = trainer_of(made, Seeing())
    for _ in range(17):
        first.advance()
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    buffer.seek(0)
    second, resumed = trainer_of(made, Seeing(), state=torch.load(buffer, weights_only=True))
    finish(second)
    assert all((a == b).all() for a, b in zip(weights(resumed), weights(student), strict=True))
    assert not any("projection" in name for name in student.module.state_dict())
    plain, other = trainer_of(spec(), reader_of(mails(60)))
    finish(plain)
    assert any((a != b).any() for a, b in zip(weights(other), weights(student), strict=True))


def test_rows_without_an_embedding_teach_nothing_by_it() -> None:
    projected = torch.randn(3, VALUES, requires_grad=True)
    seen = torch.randn(3, VALUES)
    seen[1, 2] = torch.nan
    lesson = Lesson(log_probs_BK=torch.zeros(3, 2), hard_B=torch.full((3,), -1), embedding_BD=seen, projected_BD=projected)
    for name in ("hint", "hint_cosine"):
        found = LOSSES[name](torch.zeros(3, 2), lesson, temperature=1.0)
        found.sum().backward()
        assert found[1] == 0
        assert projected.grad is not None
        assert torch.isfinite(projected.grad).all()
        assert (projected.grad[1] == 0).all()


class Patchy(Seeing):
    """Whole batches are of shards that were written without embeddings."""

    def __init__(self, has_some: Callable[[int], bool]) -> None:
        super().__init__()
        self._has_some = has_some

    def read(self, cursor: Cursor) -> Any:
        found = super().read(cursor)
        batch = cursor.epoch * 8 + cursor.pos // 8
        return found if not isinstance(found, LabelBatch) or self._has_some(batch) else replace(found, embedding_BD=None)


@pytest.mark.parametrize("loss", [{"hint": 1.0}, {"hint_cosine": 1.0}, {"kl": 1.0, "hint": 0.5}])
def test_batches_without_embeddings_teach_nothing_by_them_before_the_first_that_has_some_and_after(loss: dict[str, float]) -> None:
    made = spec(loss=loss, steps=16, weight_decay=0.0)
    trainer, student = trainer_of(made, Patchy(lambda batch: batch in (3, 4)))
    start = weights(student)
    for _ in range(3):
        trainer.advance()
    moved = any((a != b).any() for a, b in zip(weights(student), start, strict=True))
    assert moved == ("kl" in loss)
    finish(trainer)
    assert (trainer.step, trainer.skipped) == (16, 0)
    assert any((a != b).any() for a, b in zip(weights(student), start, strict=True))


def test_a_rank_whose_slice_has_no_embedding_watches_from_the_same_step_as_one_whose_has() -> None:
    def reduce(flat: torch.Tensor) -> None:
        if len(flat) == 2:  # the other rank's width, and that it has one
            flat += torch.tensor([float(VALUES), 1.0])

    trainer, _ = trainer_of(spec(loss={"kl": 1.0, "hint": 0.5}), Patchy(lambda _: False), rank=0, world=2, reduce=reduce)
    trainer.advance()
    assert trainer.state()["hint"]["projection.bias"].shape == (VALUES,)


def test_what_can_not_be_compared_is_refused_with_what_to_do() -> None:
    for steps, taken in ((40, 8), (5, 4)):  # a pass of 60 rows; no whole pass
        trainer, _ = trainer_of(spec(loss={"hint": 1.0}, steps=steps), reader_of(mails(60)))
        with pytest.raises(HintImpossibleError, match=r"the labels have no embeddings; expected `labelling.embedding = true`"):
            finish(trainer)
        assert trainer.step == taken
    headless, student = trainer_of(spec(loss={"hint": 1.0}), Seeing())
    student.module.head = torch.nn.Sequential(torch.nn.Linear(16, 2))
    with pytest.raises(HintImpossibleError, match="`head` is Sequential; expected a student whose last layer is `head`"):
        headless.advance()
