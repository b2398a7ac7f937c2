"""Students that somebody else wrote: with buffers that change in training, with layers that nothing reaches, that raise or answer oddly."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.students.faults import LogitsShapeError, StudentRaisedError
from pipeline.students.loop import Moved
from pipeline.students.models import Student, build_student
from tests.kit.ranks import Reduce, in_ranks
from tests.kit.students import finish, mails, numbers, reader_of, spec, trainer_of


def floats_student(module: torch.nn.Module) -> Student:
    return Student(module=module, kind="floats", width=4, jitter_bytes=0)


class Normalises(torch.nn.Module):
    """A student of somebody's with a BatchNorm, whose input overflows at some calls."""

    features = 4

    def __init__(self, *, overflows_at: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.norm, self.head, self.calls, self.overflows_at = torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2), 0, overflows_at

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        logits_BK: torch.Tensor = self.head(self.norm(inputs * (torch.inf if self.calls in self.overflows_at else 1.0)))
        return logits_BK


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("world", [1, 2])
def test_a_skipped_step_leaves_no_trace_in_a_batchnorm(average: float, world: int) -> None:
    """Of several ranks, also in those whose slice was finite: they skip together."""
    made = spec(options={}, kind="floats", steps=8, average=average)

    def work(rank: int, reduce: Reduce) -> Student:
        module = Normalises(overflows_at=(3,) if rank == world - 1 else ())
        student = floats_student(module)
        reader = reader_of(numbers(64), rank=rank, world=world)
        trainer, _ = trainer_of(made, reader, student=student, rank=rank, world=world, reduce=reduce if world > 1 else None)
        taken = [trainer.advance() for _ in range(2)]
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        assert [*taken, trainer.advance()] == [Moved.STEPPED, Moved.STEPPED, Moved.SKIPPED]
        assert all(buffer.equal(before[name]) for name, buffer in module.named_buffers())
        finish(trainer)
        return student

    for student in in_ranks(world, work):
        assert isinstance(student, Student), student
        assert torch.isfinite(student.module.eval()(torch.zeros(1, 4))).all()


def test_an_average_ships_the_average_of_a_norms_running_statistics() -> None:
    seen, shipped = Normalises(), Normalises()
    assert seen.norm.running_mean is not None
    plain, _ = trainer_of(spec(options={}, steps=6), reader_of(numbers(64)), student=floats_student(seen))
    expected = seen.norm.running_mean.clone()
    for step in range(6):
        plain.advance()
        expected.lerp_(seen.norm.running_mean, 1 - min(0.9, (1 + step) / (10 + step)))
    made = spec(options={}, steps=6, average=0.9)
    trainer, _ = trainer_of(made, reader_of(numbers(64)), student=floats_student(shipped))
    finish(trainer)
    torch.testing.assert_close(shipped.norm.running_mean, expected)
    assert shipped.norm.num_batches_tracked == 6


class PartlyUnused(torch.nn.Module):
    """A student of somebody's with a layer that no loss reaches, and one that some inputs alone do."""

    features = 4

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.some, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rare = inputs[0, 0] > 0
        logits_BK: torch.Tensor = self.head(self.some(inputs) if rare else inputs)
        return logits_BK


def test_weights_that_no_loss_reaches_stay_as_they_are_with_any_number_of_workers() -> None:
    made = spec(options={}, steps=12, weight_decay=0.5)
    start = PartlyUnused()

    def work(world: int, rank: int, reduce: Reduce | None) -> PartlyUnused:
        module = copy.deepcopy(start)
        student = floats_student(module)
        reader = reader_of(numbers(64), rank=rank, world=world)
        finish(trainer_of(made, reader, student=student, rank=rank, world=world, reduce=reduce)[0])
        return module

    alone = work(1, 0, None)
    first, second = in_ranks(2, lambda rank, reduce: work(2, rank, reduce))
    for trained in (alone, first, second):
        assert trained.unused.weight.equal(start.unused.weight)
        assert not trained.some.weight.equal(start.some.weight)
    assert all(mine.equal(theirs) for mine, theirs in zip(first.parameters(), second.parameters(), strict=True))


class Breaks(torch.nn.Module):
    """A student of somebody's that cannot take some batch."""

    def __init__(self, student: torch.nn.Module, *, at_call: int) -> None:
        super().__init__()
        self.student, self._calls_left = student, at_call

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self._calls_left -= 1
        if self._calls_left < 0:
            raise ValueError("no such token: 17")
        logits_BK: torch.Tensor = self.student(inputs)
        return logits_BK


def test_a_module_that_raises_is_named_with_its_step_and_pickles() -> None:
    student = build_student(spec())
    broken = replace(student, module=Breaks(student.module, at_call=5))
    trainer, _ = trainer_of(spec(), reader_of(mails(60)), student=broken)
    for _ in range(5):
        trainer.advance()
    with pytest.raises(
        StudentRaisedError,
        match=r"raised ValueError: no such token: 17 \(test_users_modules.py line \d+\) at step 5; .*run again",
    ) as raised:
        trainer.advance()
    carried = pickle.loads(pickle.dumps(raised.value))
    assert str(carried) == str(raised.value)
    assert 'raise ValueError("no such token: 17")' in carried.trace, "the driver's log has it, whichever process raised"


class Reshapes(torch.nn.Module):
    """A student of somebody's whose answer is not what it should be."""

    def __init__(self, student: torch.nn.Module, reshape: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.student, self.reshape = student, reshape

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.reshape(self.student(inputs))


@pytest.mark.parametrize(
    ("reshape", "found"),
    [
        (lambda logits_BK: logits_BK[:, :1], r"a tensor of shape \[8, 1\]"),
        (lambda logits_BK: logits_BK.mean(0, keepdim=True), r"a tensor of shape \[1, 2\]"),
        (lambda logits_BK: torch.cat([logits_BK, logits_BK], 1), r"a tensor of shape \[8, 4\]"),
        (lambda logits_BK: (logits_BK,), "a tuple"),
    ],
)
def test_logits_that_are_not_a_row_for_each_input_and_a_column_for_each_class_are_refused(
    reshape: Callable[[torch.Tensor], Any], found: str
) -> None:
    """One logit a sample would train by broadcasting."""
    student = build_student(spec())
    odd = replace(student, module=Reshapes(student.module, reshape))
    trainer, _ = trainer_of(spec(), reader_of(mails(60)), student=odd)
    with pytest.raises(LogitsShapeError, match=rf"answered {found} at step 0; expected logits of shape \[8, 2\]"):
        trainer.advance()
