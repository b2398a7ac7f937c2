"""Samples to judge a student by, and the three parts of a validation split.

`fit` sets the temperature and calibrates int8, `choose` decides between ways to train and to quantise, `gate` decides about a release and
nothing else. Where the source carries a column `part` that column says which is which; elsewhere a hash of the sample's id does,
always the same way. A row that did not parse is left out, and counted.

Shapes: N samples, K classes.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.distill.losses import NO_LABEL
from pipeline.errors import DataError
from pipeline.sources.source import Source
from pipeline.teachers.teacher import Teacher, TeacherOutputError, TeacherUnavailableError

PARTS = ("fit", "choose", "gate")
OF_EVERY_SOURCE = frozenset({"sample_id", "input", "label", "problem", "part"})
SHARES = (0.3, 0.3, 0.4)
LABELS_MIN = 30
"""Fewest hard labels by which a part is used that has unlabelled samples, too."""
READ_ROWS = 1024
TEACHER_ROWS = 256
FAULT_CHARACTERS = 300


class LabelUnknownError(DataError):
    """A hard label that is none of the run file's classes."""

    def __init__(self, sample_id: str, found: str, classes: Sequence[str]) -> None:
        super().__init__(sample_id, found, tuple(classes))
        self.sample_id, self.found, self.classes = sample_id, found, tuple(classes)

    def __str__(self) -> str:
        return f"sample {self.sample_id}: label {self.found!r}; expected one of {', '.join(self.classes)}; correct `classes` or the data"


class SamplesMissingError(DataError):
    """A split, or a part of the validation split, without samples."""

    def __init__(self, what: str, there: Mapping[str, int], *, split: str = "validation", fault: str = "") -> None:
        super().__init__(what, dict(there), split, fault)
        self.what, self.there, self.split, self.fault = what, dict(there), split, fault

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.what, self.there, split=self.split, fault=self.fault), ()

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.there.items())
        expected = f"some in each of {', '.join(PARTS)}" if self.split == "validation" else "at least one"
        remedy = f"the teacher raised {self.fault}" if self.fault else f"give `{self.split}` more rows"
        return f"{self.split}: no sample in {self.what} ({counts}); expected {expected}; {remedy}"


class SampleUnfitError(DataError):
    """A sample that a student can't eat."""

    def __init__(self, split: str, sample_id: str, student: str, found: str, expected: str) -> None:
        super().__init__(split, sample_id, student, found, expected)
        self.split, self.sample_id, self.student, self.found, self.expected = split, sample_id, student, found, expected

    def __str__(self) -> str:
        return (
            f"{self.split}, sample {self.sample_id}: {self.found}; expected {self.expected}, as student {self.student} takes; "
            f"correct `{self.split}` or `students.{self.student}.options`"
        )


class PartUnknownError(DataError):
    """A sample whose column `part` names none of the parts."""

    def __init__(self, sample_id: str, found: str) -> None:
        super().__init__(sample_id, found)
        self.sample_id, self.found = sample_id, found

    def __str__(self) -> str:
        return f"validation sample {self.sample_id}: part {self.found!r:.80}; expected one of {', '.join(PARTS)}; correct the column `part`"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """N samples with what is known of them."""

    ids: tuple[str, ...]
    inputs: tuple[Any, ...]
    """Text, or tuples of numbers."""
    hard_N: NDArray[np.int64]
    """Class, or NO_LABEL."""
    teacher_NK: NDArray[np.float32] | None = None
    """The teacher's log-probabilities, where it was asked."""
    columns: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    """What else the source carries of each sample, by column."""
    fault: str = ""
    """What the teacher raised first, where it raised at samples."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Every sample has a hard label."""
        return len(self) > 0 and bool((self.hard_N != NO_LABEL).all())

    @property
    def rows_to_count_on(self) -> NDArray[np.int64]:
        """Those with a hard label, where every sample has one or LABELS_MIN have; none where so few say more of chance than of a model."""
        rows_M = np.flatnonzero(self.hard_N != NO_LABEL)
        return rows_M if self.labelled or len(rows_M) >= LABELS_MIN else rows_M[:0]

    def take(self, rows: Iterable[int]) -> "Samples":
        chosen = list(rows)
        return Samples(
            ids=tuple(self.ids[row] for row in chosen),
            inputs=tuple(self.inputs[row] for row in chosen),
            hard_N=self.hard_N[chosen],
            teacher_NK=None if self.teacher_NK is None else self.teacher_NK[chosen],
            columns={name: tuple(values[row] for row in chosen) for name, values in self.columns.items()},
        )

    def with_teacher(self, teacher: Teacher) -> "Samples":
        """The same samples with what the teacher says about them: NaN where it fails. Its -inf becomes -30, as in stored labels.

        Raises TeacherUnavailableError, TeacherOutputError: no sample is at fault.
        """
        kind = pa.string() if not self.inputs or isinstance(self.inputs[0], str) else pa.list_(pa.float32())
        starts = range(0, len(self), TEACHER_ROWS)
        faults: list[str] = []
        answers = [_answers(teacher, pa.array(self.inputs[start : start + TEACHER_ROWS], kind), faults) for start in starts]
        teacher_NK = np.concatenate([np.zeros((0, len(teacher.classes)), np.float32), *answers])
        return replace(self, teacher_NK=np.maximum(teacher_NK, -30).astype(np.float32), fault=next(iter(faults), ""))

    def answered(self) -> "Samples":
        """Those that the teacher answered: the others say nothing of a student that is held against it."""
        assert self.teacher_NK is not None
        return self.take(np.flatnonzero(~np.isnan(self.teacher_NK).any(axis=1)).tolist())


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The three parts."""

    fit: Samples
    choose: Samples
    gate: Samples
    unanswered: int = 0
    """Samples that are left out because the teacher failed on them."""
    unparsed: int = 0
    """Rows that are left out because they did not parse."""

    def answered(self, ask: Callable[[Samples], Samples]) -> "Validation":
        """With the teacher's answers, as `ask` gets them. Raises SamplesMissingError where it answers nothing of a part."""
        said = {part: ask(getattr(self, part)) for part in PARTS}
        asked = {part: samples.answered() for part, samples in said.items()}
        for part, samples in asked.items():
            if not len(samples):
                there = {name: len(found) for name, found in asked.items()}
                raise SamplesMissingError(f"{part} that the teacher answers", there, fault=said[part].fault)
        left_out = sum(len(getattr(self, part)) - len(samples) for part, samples in asked.items())
        return replace(self, fit=asked["fit"], choose=asked["choose"], gate=asked["gate"], unanswered=left_out)

    def left_out(self) -> list[str]:
        """What is not in the parts, for a person: a sentence a reason."""
        reasons = {"on which the teacher failed": self.unanswered, "that did not parse": self.unparsed}
        return [f"left out: {count:,} validation samples {reason}" for reason, count in reasons.items() if count]


def _answers(teacher: Teacher, inputs: pa.Array, faults: list[str]) -> NDArray[np.float32]:
    """What the teacher says; a batch at which it raises is halved until the bad samples are alone. What it raises goes to `faults`."""
    try:
        return teacher.log_probs(inputs)
    except (TeacherUnavailableError, TeacherOutputError):
        raise
    except Exception as error:  # noqa: BLE001 - the teacher may be the user's code; whatever it raises is a fact about the samples
        faults.append(f"{type(error).__name__}: {error}"[:FAULT_CHARACTERS])
        if len(inputs) == 1:
            return np.full((1, len(teacher.classes)), np.nan, dtype=np.float32)
        half = len(inputs) // 2
        return np.concatenate([_answers(teacher, inputs[:half], faults), _answers(teacher, inputs[half:], faults)])


def read_samples(source: Source, *, classes: Sequence[str]) -> Samples:
    """Every row of a source that parses. Raises LabelUnknownError."""
    return _samples((row for row in _rows(source) if _parsed(row)), classes)


def read_validation(source: Source, *, classes: Sequence[str]) -> Validation:
    """The three parts of a validation source. Raises SamplesMissingError, LabelUnknownError, PartUnknownError."""
    found = list(_rows(source))
    rows = [row for row in found if _parsed(row)]
    parts = {part: _samples([row for row in rows if _part_of(row) == part], classes) for part in PARTS}
    for part, samples in parts.items():
        if not len(samples):
            raise SamplesMissingError(part, {name: len(found) for name, found in parts.items()})
    return Validation(fit=parts["fit"], choose=parts["choose"], gate=parts["gate"], unparsed=len(found) - len(rows))


def part_of(sample_id: str) -> str:
    """The part that a sample of this id belongs to where the source does not say."""
    share = int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest(), "little") / 2**64
    return PARTS[0] if share < SHARES[0] else PARTS[1] if share < SHARES[0] + SHARES[1] else PARTS[2]


def _part_of(row: Mapping[str, Any]) -> str:
    said = row.get("part")
    if said is None:
        return part_of(row["sample_id"])
    if said not in PARTS:
        raise PartUnknownError(row["sample_id"], said)
    return str(said)


def _parsed(row: Mapping[str, Any]) -> bool:
    return row["input"] is not None


def _rows(source: Source) -> Iterable[Mapping[str, Any]]:
    for part in source.parts():
        for start in range(0, part.rows, READ_ROWS):
            batch = source.read(part.identity, range(start, min(start + READ_ROWS, part.rows)))
            yield from batch.to_pylist()


def _samples(rows: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> Samples:
    index = {name: number for number, name in enumerate(classes)}
    ids, inputs, hard = [], [], []
    columns: dict[str, list[str | None]] = {}
    for row in rows:
        label = row["label"]
        if label is not None and label not in index:
            raise LabelUnknownError(row["sample_id"], label, classes)
        ids.append(row["sample_id"])
        inputs.append(row["input"] if isinstance(row["input"], str) else tuple(row["input"]))
        hard.append(NO_LABEL if label is None else index[label])
        for name in row.keys() - OF_EVERY_SOURCE:
            columns.setdefault(name, []).append(row[name])
    return Samples(
        ids=tuple(ids),
        inputs=tuple(inputs),
        hard_N=np.array(hard, dtype=np.int64),
        columns={name: tuple(columns[name]) for name in sorted(columns)},
    )
