"""The training loop: order, exact resumption, ranks, steps that are not finite."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distill.losses import LossUnknownError
from pipeline.students.faults import (
    SKIPS_IN_A_ROW_MAX,
    LogitsShapeError,
    NoLabelsError,
    NotFiniteElsewhereError,
    NotFiniteError,
    StateForeignError,
    StudentRaisedError,
)
from pipeline.students.loop import Moved, load_model
from pipeline.students.models import build_student
from pipeline.students.schedule import learning_rate
from tests.kit.ranks import Reduce, in_ranks
from tests.kit.students import GrowingReader, finish, mails, reader_of, spec, trainer_of, weights


def through_a_file(state: dict[str, Any]) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_same(left: Any, right: Any) -> None:
    assert all((a == b).all() for a, b in zip(left, right, strict=True))


def test_a_student_learns_what_its_teacher_says() -> None:
    trainer, _ = trainer_of(spec(steps=120), reader_of(mails(120)))
    finish(trainer)
    losses = [loss for _, loss in trainer.history]
    assert losses[-1] < losses[0] / 3
    assert trainer.step == 120
    assert trainer.rows == 120 * 8
    assert trainer.live_rows == 120


@pytest.mark.parametrize("stop", [0, 1, 7, 8, 23, 39])
def test_resumed_training_sees_the_same_samples_and_ends_with_the_same_weights(stop: int) -> None:
    reader = GrowingReader(reader_of(mails(60)))
    reader.closed = True
    whole, student = trainer_of(spec(), reader)
    finish(whole)
    first_reader, second_reader = GrowingReader(reader_of(mails(60))), GrowingReader(reader_of(mails(60)))
    first_reader.closed = second_reader.closed = True
    first, _ = trainer_of(spec(), first_reader)
    for _ in range(stop):
        first.advance()
    torch.manual_seed(stop)
    second, resumed = trainer_of(spec(), second_reader, state=through_a_file(first.state()))
    assert second.step == stop
    finish(second)
    assert first_reader.read_ids + second_reader.read_ids == reader.read_ids
    assert second.history == whole.history
    assert second.loss == whole.loss
    assert_same(weights(resumed), weights(student))


@pytest.mark.parametrize("stop", [0, 1, 20, 39, 40])
def test_an_average_of_the_weights_survives_a_restart_and_is_what_is_left_at_the_end(stop: int) -> None:
    made, plain_made = spec(average=0.9), spec()
    whole, student = trainer_of(made, reader_of(mails(60)))
    finish(whole)
    plain, last = trainer_of(plain_made, reader_of(mails(60)))
    steps = [weights(last)]
    while plain.advance() is not Moved.DONE:
        steps.append(weights(last))
    expected = steps[0]
    for taken, now in enumerate(steps[1:]):
        decay = min(0.9, (1 + taken) / (10 + taken))
        expected = [decay * mean + (1 - decay) * value for mean, value in zip(expected, now, strict=True)]
    for mine, of in zip(weights(student), expected, strict=True):
        np.testing.assert_allclose(mine, of, atol=1e-5)
    first, _ = trainer_of(made, reader_of(mails(60)))
    for _ in range(stop):
        first.advance()
    second, resumed = trainer_of(made, reader_of(mails(60)), state=through_a_file(first.state()))
    finish(second)
    assert_same(weights(resumed), weights(student))


@given(parts=st.integers(2, 20))
@settings(max_examples=8)
def test_a_batch_taken_in_parts_teaches_what_it_teaches_as_a_whole(parts: int) -> None:
    whole, student = trainer_of(spec(steps=6), reader_of(mails(30)))
    finish(whole)
    cut, parted = trainer_of(spec(steps=6, accumulate=parts), reader_of(mails(30)))
    finish(cut)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-4)
    for mine, expected in zip(weights(parted), weights(student), strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-4)


def test_a_student_that_computes_in_bf16_learns_and_keeps_its_weights_in_float32() -> None:
    trainer, student = trainer_of(spec(steps=120, precision="bf16"), reader_of(mails(120)))
    finish(trainer)
    losses = [loss for _, loss in trainer.history]
    assert losses[-1] < losses[0] / 2
    assert all(value.dtype == torch.float32 for value in student.module.parameters())
    exact, _ = trainer_of(spec(steps=120), reader_of(mails(120)))
    finish(exact)
    assert trainer.history != exact.history, "it was computed in another precision"


def test_training_waits_for_labels_that_are_not_there_and_never_repeats_the_live_pass() -> None:
    reader = GrowingReader(reader_of(mails(60)), known=0)
    trainer, _ = trainer_of(spec(), reader)
    assert trainer.advance() is Moved.WAITING
    reader.known = 17
    assert [trainer.advance() for _ in range(3)] == [Moved.STEPPED, Moved.STEPPED, Moved.WAITING]
    assert trainer.live_rows == 16
    reader.closed = True
    finish(trainer)
    assert trainer.live_rows == 60
    assert sorted(reader.read_ids[:60]) == sorted(mails(60).ids), "the live pass is each sample once"
    assert sorted(reader.read_ids[60:120]) == sorted(mails(60).ids), "and then a replay"
    assert trainer.step == 40


@given(world=st.integers(1, 5), rows=st.integers(1, 30))
@settings(max_examples=12)
def test_ranks_with_uneven_or_empty_slices_take_the_steps_of_one(world: int, rows: int) -> None:
    alone, student = trainer_of(spec(steps=6), reader_of(mails(rows)))
    finish(alone)
    results = weights_of_ranks(world, rows=rows, steps=6)
    for found in results:
        for mine, expected in zip(found, weights(student), strict=True):
            np.testing.assert_allclose(mine, expected, atol=2e-4)
    for found in results[1:]:
        assert_same(found, results[0])


def weights_of_ranks(world: int, *, rows: int, steps: int) -> list[Any]:
    """The weights of each rank of a training."""
    students = [build_student(spec(steps=steps)) for _ in range(world)]

    def work(rank: int, reduce: Reduce) -> Any:
        reader = reader_of(mails(rows), rank=rank, world=world)
        trainer, student = trainer_of(spec(steps=steps), reader, student=students[rank], rank=rank, world=world, reduce=reduce)
        finish(trainer)
        return weights(student)

    return in_ranks(world, work)


def poisoned(samples: Any, rows: list[int]) -> Any:
    samples.teacher_NK[rows] = np.nan
    return samples


def test_a_step_that_is_not_finite_is_skipped_and_counted_and_changes_nothing() -> None:
    trainer, student = trainer_of(spec(steps=9), reader_of(poisoned(mails(64), [3])))
    before, moves = weights(student), []
    while (moved := trainer.advance()) is not Moved.DONE:
        now = weights(student)
        if moved is Moved.SKIPPED:
            assert_same(now, before)
        moves.append(moved)
        before = now
    assert moves.count(Moved.SKIPPED) == trainer.skipped == 1 + (moves[-1] is Moved.SKIPPED)
    assert all(np.isfinite(value).all() for value in weights(student))
    assert trainer.step == 9


def test_step_after_step_that_is_not_finite_ends_training_and_names_the_samples() -> None:
    samples = poisoned(mails(64), list(range(64)))
    trainer, _ = trainer_of(spec(), reader_of(samples))
    for _ in range(SKIPS_IN_A_ROW_MAX - 1):
        assert trainer.advance() is Moved.SKIPPED
    with pytest.raises(NotFiniteError, match=r"student small: no finite gradient in 5 steps in a row, up to step 5; .*mail-1:"):
        trainer.advance()


@pytest.mark.parametrize(
    ("mine_bad", "others_bad", "error"),
    [(True, False, NotFiniteError), (True, True, NotFiniteError), (False, True, NotFiniteElsewhereError), (False, False, NotFiniteError)],
)
def test_of_several_ranks_those_whose_samples_they_are_name_them(mine_bad: bool, others_bad: bool, error: type[Exception]) -> None:
    """Where no share was anything but finite, their sum was too large, and each names its own."""

    def reduce(flat: torch.Tensor) -> None:
        flat += float(others_bad) if len(flat) == 1 else torch.nan

    samples = poisoned(mails(64), list(range(64)) if mine_bad else [])
    trainer, _ = trainer_of(spec(), reader_of(samples, rank=0, world=2), rank=0, world=2, reduce=reduce)
    for _ in range(SKIPS_IN_A_ROW_MAX - 1):
        assert trainer.advance() is Moved.SKIPPED
    with pytest.raises(error) as raised:
        trainer.advance()
    assert getattr(raised.value, "sample_ids", ("mail-1:",))[0].startswith("mail-1:")


def test_a_state_is_of_its_step_whatever_steps_are_taken_since() -> None:
    trainer, _ = trainer_of(spec(average=0.9), reader_of(mails(60)))
    for _ in range(3):
        trainer.advance()
    state, twin = trainer.state(), trainer.state()
    finish(trainer)
    assert_same_tree(state, twin)
    assert state["optimiser"]["state"][0]["step"].item() == 3


def assert_same_tree(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert found.equal(expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same_tree(found[key], value)
    else:
        assert found == expected


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
        StudentRaisedError, match=r"its module raised ValueError: no such token: 17 \(test_loop.py line \d+\) at step 5; .*run again"
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


def test_a_generation_without_a_label_is_an_error_not_a_hang() -> None:
    trainer, _ = trainer_of(spec(), reader_of(mails(0)))
    with pytest.raises(NoLabelsError):
        trainer.advance()


def test_hard_labels_teach_with_ce_and_samples_without_one_do_not() -> None:
    known, unknown = mails(60), mails(60, hard=False)
    _, first = trainer_of(spec(loss={"ce": 1.0}, weight_decay=0.0), reader_of(unknown))
    start = weights(first)
    trainer, student = trainer_of(spec(loss={"ce": 1.0}, weight_decay=0.0), reader_of(unknown))
    finish(trainer)
    assert_same(weights(student), start)
    trainer, student = trainer_of(spec(loss={"ce": 1.0}, steps=120), reader_of(known))
    finish(trainer)
    assert trainer.history[-1][1] < trainer.history[0][1] / 3


def test_a_forgotten_sample_teaches_nothing() -> None:
    reader = reader_of(mails(8))
    batch = reader.read(reader.start())

    class Forgetful:
        def start(self) -> Any:
            return reader.start()

        def read(self, cursor: Any) -> Any:
            found = reader.read(cursor)
            if hasattr(found, "weight_B"):
                found.weight_B[:] = 0
            return found

    trainer, student = trainer_of(spec(steps=3, weight_decay=0.0), Forgetful())
    start = weights(student)
    finish(trainer)
    assert len(batch.sample_ids) == 8  # type: ignore[union-attr]
    assert_same(weights(student), start)


@pytest.mark.parametrize("changes", [{"steps": 41}, {"learning_rate": 0.5}, {"warmup_steps": 9}])
def test_a_checkpoint_of_another_schedule_is_refused(changes: dict[str, Any]) -> None:
    trainer, _ = trainer_of(spec(), reader_of(mails(60)))
    trainer.advance()
    with pytest.raises(StateForeignError, match="schedule"):
        trainer_of(spec(**changes), reader_of(mails(60)), state=trainer.state())


def test_weights_of_another_shape_are_refused_by_the_name_of_the_first_that_differs() -> None:
    other = build_student(spec(options={"max_bytes": 32, "width": 9, "embedding": 4}))
    with pytest.raises(StateForeignError, match=r"weights 'first.linear.bias' \(9,\); expected \(8,\)"):
        load_model("small", build_student(spec()), other.module.state_dict())


def test_a_wrong_loss_is_refused_before_the_first_step() -> None:
    with pytest.raises(LossUnknownError, match=r"students\.small\.loss"):
        trainer_of(spec(loss={"kll": 1.0}), reader_of(mails(8)))


@given(steps=st.integers(1, 500), warmup=st.integers(0, 600))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing(steps: int, warmup: int) -> None:
    rates = [learning_rate(step, steps=steps, warmup_steps=warmup, peak=1.0) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= steps // 4
    assert learning_rate(steps, steps=steps, warmup_steps=warmup, peak=1.0) < 1e-9
