"""The `Teacher` protocol and what can be wrong with a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TeacherError


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a teacher says about B inputs, and what else it knows of them."""

    log_probs_BK: NDArray[np.float32]
    """Natural log-probabilities at temperature 1."""
    disagreement_B: NDArray[np.float32] | None = None
    """How far its members are apart, in nats, for a teacher of several; never negative."""
    embedding_BD: NDArray[np.float32] | None = None
    """What it sees in the inputs, for students that learn to see it, too."""


class RawTeacher(Protocol):
    """What an adapter makes: its own classes, in its own order, unchecked. `log_probs` may give an array [B, K] or an `Answer`.

    It may have `batches(inputs)`: places of the inputs in the batches that it likes, each place once; or None if it does not care.
    """

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def fingerprint(self) -> str: ...

    def log_probs(self, inputs: Any) -> Any: ...


class Teacher(Protocol):
    """A model that says how likely each class is."""

    classes: tuple[str, ...]
    """In the run file's order."""
    fingerprint: str
    """Weights, preprocessing, backend and the source of a user's callable: labels of one fingerprint belong together."""
    deterministic: bool
    """Says the same of the same input, so that one answer may stand for all. A teacher that does not say is."""

    def log_probs(self, inputs: Any) -> NDArray[np.float32]:
        """Natural log-probabilities at temperature 1, [B, K], for a `pa.Array` of B inputs (string, or list<float32>).

        -inf is a normal answer. A row of NaN is that row's problem, and the caller's to see.
        """
        ...


@runtime_checkable
class AnsweringTeacher(Protocol):
    """A teacher that may know more than log-probabilities."""

    def answer(self, inputs: Any) -> Answer: ...


@runtime_checkable
class BatchingTeacher(Protocol):
    """A teacher that may care which inputs it is asked about together."""

    def batches(self, inputs: Any, rows: int) -> Sequence[NDArray[np.int64]]:
        """Places of the inputs, each in one batch; `rows` at a time, if it does not care."""
        ...


def answer_of(teacher: Teacher, inputs: Any) -> Answer:
    """All that the teacher says about the inputs."""
    return teacher.answer(inputs) if isinstance(teacher, AnsweringTeacher) else Answer(log_probs_BK=teacher.log_probs(inputs))


def batches_of(teacher: Teacher, inputs: Any, rows: int) -> Sequence[NDArray[np.int64]]:
    """Places of the inputs in the batches to ask the teacher about: as it likes them, else `rows` at a time, in order."""
    if isinstance(teacher, BatchingTeacher):
        return teacher.batches(inputs, rows)
    return in_order(len(inputs), rows)


def in_order(count: int, rows: int) -> Sequence[NDArray[np.int64]]:
    """Places of `count` inputs, `rows` at a time."""
    return [np.arange(start, min(start + rows, count)) for start in range(0, count, rows)]


class TeacherLoadError(TeacherError):
    """The teacher's files are missing, damaged, or hold what kdpipe does not trust."""

    def __init__(self, where: str, found: str, expected: str, next_command: str) -> None:
        super().__init__(where, found, expected, next_command)
        self.where, self.found, self.expected, self.next_command = where, found, expected, next_command

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}; {self.next_command}"


class TeacherUnavailableError(TeacherError):
    """What the teacher needs elsewhere does not answer. No row is at fault: the run ends, and goes on from there when it is back."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = where, problem

    def __str__(self) -> str:
        return (
            f"teacher at {self.where}: {self.problem}; expected an answer; start it, or correct `teacher.options`; "
            "the same command goes on from here"
        )


class TeacherClassesError(TeacherError):
    """The teacher knows other classes than the run file."""

    def __init__(self, name: str, found: Sequence[str], expected: Sequence[str]) -> None:
        super().__init__(name, tuple(found), tuple(expected))
        self.name, self.found, self.expected = name, tuple(found), tuple(expected)

    def __str__(self) -> str:
        return (
            f"teacher {self.name}: knows {len(self.found)} classes ({', '.join(self.found)}); "
            f"expected the {len(self.expected)} of the run file ({', '.join(self.expected)}); "
            "correct `classes` there or take another teacher"
        )


class TeacherOutputError(TeacherError):
    """The teacher answered in a shape or with values that cannot be log-probabilities."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(name, found, expected)
        self.name, self.found, self.expected = name, found, expected

    def __str__(self) -> str:
        return f"teacher {self.name}: {self.found}; expected {self.expected}; correct the teacher's log_probs"
