"""What may end a student's training: errors that are the same the next time, so that nobody tries again by himself.

A worker that is killed and a disk that is full are none of these; whoever runs the training goes on from its newest checkpoint.
"""

from collections.abc import Sequence

from pipeline.errors import StudentError

SKIPS_IN_A_ROW_MAX = 5


class NotFiniteError(StudentError):
    """Step after step has no finite gradient."""

    def __init__(self, name: str, step: int, sample_ids: Sequence[str]) -> None:
        super().__init__(name, step, tuple(sample_ids))
        self.name, self.step, self.sample_ids = name, step, tuple(sample_ids)

    def __str__(self) -> str:
        shown = ", ".join(self.sample_ids[:8])
        return (
            f"student {self.name}: no finite gradient in {SKIPS_IN_A_ROW_MAX} steps in a row, up to step {self.step}; "
            f"expected finite losses; lower students.{self.name}.learning_rate, or look at samples {shown}"
        )


class NotFiniteElsewhereError(StudentError):
    """Step after step has no finite gradient, and this rank's share was finite: NotFiniteError of another one names the samples."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"student {self.name}: no finite gradient by another worker's samples; expected finite losses; look at that one's error"


class NoLabelsError(StudentError):
    """The generation ended without a single label."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"student {self.name}: the log holds no labels; expected at least one; "
            "`kdpipe labels ls DIR` shows what was quarantined and why"
        )


class StateForeignError(StudentError):
    """A checkpoint of a training that was set up differently."""

    def __init__(self, name: str, what: str, found: str, expected: str) -> None:
        super().__init__(name, what, found, expected)
        self.name, self.what, self.found, self.expected = name, what, found, expected

    def __str__(self) -> str:
        return (
            f"student {self.name}: what it should go on from has {self.what} {self.found}; expected {self.expected}; "
            "move that checkpoint or incumbent away to train afresh"
        )


class StudentRaisedError(StudentError):
    """A student's own module raised where it was given a batch."""

    def __init__(self, name: str, found: str, where: str, trace: str = "") -> None:
        """`trace` is for a log: what raised may be in another process, which takes its own along."""
        super().__init__(name, found, where, trace)
        self.name, self.found, self.where, self.trace = name, found, where, trace

    def __str__(self) -> str:
        return (
            f"student {self.name}: its module raised {self.found} {self.where}; expected one row of logits for each input; "
            "correct the module and run again: the labels are kept"
        )


class LogitsShapeError(StudentError):
    """A student's module answered something else than a row for each input and a column for each class."""

    def __init__(self, name: str, found: str, expected: str, where: str) -> None:
        super().__init__(name, found, expected, where)
        self.name, self.found, self.expected, self.where = name, found, expected, where

    def __str__(self) -> str:
        return (
            f"student {self.name}: its module answered {self.found} {self.where}; expected logits of shape {self.expected}, a row for each "
            "input and a column for each class; correct the module and run again: the labels are kept"
        )


class AnswersNotFiniteError(StudentError):
    """A trained module, or the file made of it, that answers some real samples with NaN or infinity."""

    def __init__(self, name: str, count: int, samples: int, first: str) -> None:
        super().__init__(name, count, samples, first)
        self.name, self.count, self.samples, self.first = name, count, samples, first

    def __str__(self) -> str:
        return (
            f"student {self.name}: trained, it answers {self.count} of {self.samples} validation samples with numbers that are not finite; "
            f"expected finite logits; look at what it does with sample {self.first}"
        )
