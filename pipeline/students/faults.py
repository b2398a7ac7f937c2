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


class ClassesChangedError(StudentError):
    """A student was trained for other classes than the run file names now, and is not judged yet."""

    def __init__(self, name: str, found: Sequence[str], expected: Sequence[str]) -> None:
        super().__init__(name, tuple(found), tuple(expected))
        self.name, self.found, self.expected = name, tuple(found), tuple(expected)

    def __str__(self) -> str:
        return (
            f"student {self.name}: trained for the classes {list(self.found)}; expected {list(self.expected)} as in the run file; "
            "run again to train it afresh"
        )


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
            f"did a library change below its module? with any key of students.{self.name} changed it trains afresh"
        )


class LabelsOfCodecError(StudentError):
    """Labels of which a student's loss would learn something else than the teacher: stored before `labelling.codec` was changed."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(name, found)
        self.name, self.found = name, found

    def __str__(self) -> str:
        return (
            f"student {self.name}: {self.found}; expected labels by a codec that its loss learns from; these were stored before "
            f"`labelling.codec` was changed: take another students.{self.name}.loss, or throw all away with `kdpipe clean DIR --labels`"
        )


class StudentEditedError(StudentError):
    """A user's own student is another on this worker than where its run began."""

    def __init__(self, name: str, use: str) -> None:
        super().__init__(name, use)
        self.name, self.use = name, use

    def __str__(self) -> str:
        return (
            f"student {self.name}: the code of {self.use} is another than when the run began; expected the same on every machine until it "
            "ends; run again: a student that was edited trains afresh"
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
