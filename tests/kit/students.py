"""Students small enough for a test, and samples they can learn in seconds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import StudentSection
from pipeline.distill.losses import NO_LABEL
from pipeline.labels.order import Cursor
from pipeline.labels.reader import EndOfEpoch, LabelBatch, NotYet
from pipeline.students.control import memory_reader
from pipeline.students.loop import Moved, Trainer
from pipeline.students.memory import MemoryReader
from pipeline.students.models import Student, StudentSpec, build_student
from pipeline.students.samples import Samples

CLASSES = ("ham", "spam")
TINY = {"max_bytes": 32, "width": 8, "embedding": 4}
WORDS = (("meeting", "patch", "kernel", "thanks"), ("viagra", "free!!", "winner", "click"))


def section(**changes: Any) -> StudentSection:
    keys: dict[str, Any] = {"options": TINY, "batch": 8, "steps": 40, "warmup_steps": 4, "learning_rate": 0.02}
    return StudentSection(**(keys | changes))


def spec(name: str = "small", *, seed: int = 3, kind: str = "text", **changes: Any) -> StudentSpec:
    return StudentSpec(name=name, section=section(**changes), classes=CLASSES, kind=kind, base=Path(), seed=seed)  # type: ignore[arg-type]


def mails(rows: int = 60, *, seed: int = 1, hard: bool = True, teacher: bool = True, share_right: float = 1.0) -> Samples:
    """Texts whose words say their class. The teacher knows it, most of the time."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, rows)
    said = np.where(generator.random(rows) < share_right, truth, 1 - truth)
    log_probs = np.log(np.where(np.eye(2)[said] > 0, 0.95, 0.05)).astype(np.float32)
    return Samples(
        ids=tuple(f"mail-{seed}:{row}" for row in range(rows)),
        inputs=tuple(f"{generator.integers(1000)} {WORDS[label][generator.integers(4)]} {generator.integers(1000)}" for label in truth),
        hard_N=truth.astype(np.int64) if hard else np.full(rows, NO_LABEL, dtype=np.int64),
        teacher_NK=log_probs if teacher else None,
    )


def numbers(rows: int = 60, *, seed: int = 1) -> Samples:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, rows)
    values = generator.normal(truth[:, None] * 2.0 - 1.0, 0.7, (rows, 4)).astype(np.float32)
    return replace(mails(rows, seed=seed), inputs=tuple(tuple(map(float, row)) for row in values), hard_N=truth.astype(np.int64))


def reader_of(samples: Samples, *, rank: int = 0, world: int = 1, **changes: Any) -> MemoryReader:
    made = section(**changes)
    reader = memory_reader(samples, classes=CLASSES, section=made, seed=3)
    reader._rank, reader._world = rank, world
    return reader


class GrowingReader:
    """A live log: the labels beyond `known` are not there yet; `closed` ends the generation. Keeps the ids it handed out."""

    def __init__(self, reader: MemoryReader, *, known: int = 0) -> None:
        self.known, self.closed = known, False
        self.error: Exception | None = None
        self.read_ids: list[str] = []
        self._reader = reader

    def start(self) -> Cursor:
        return self._reader.start()

    def read(self, cursor: Cursor) -> LabelBatch | NotYet | EndOfEpoch:
        if self.error is not None:
            raise self.error
        found = self._reader.read(cursor)
        if not self.closed and (cursor.epoch or isinstance(found, EndOfEpoch) or found.cursor_after.pos > self.known):
            return NotYet()
        if isinstance(found, LabelBatch):
            self.read_ids += found.sample_ids
        return found


def trainer_of(made: StudentSpec, reader: Any, *, student: Student | None = None, **options: Any) -> tuple[Trainer, Student]:
    built = student or build_student(made)
    return (
        Trainer(name=made.name, student=built, section=made.section, classes=made.classes, reader=reader, seed=made.seed, **options),
        built,
    )


def finish(trainer: Trainer) -> list[Moved]:
    """All moves until it is done; fails where it would wait for ever."""
    moves: list[Moved] = []
    while (moved := trainer.advance()) is not Moved.DONE:
        assert moved is not Moved.WAITING, "nobody labels any more"
        moves.append(moved)
    return moves


def weights(student: Student) -> Sequence[np.ndarray]:
    return [value.numpy().copy() for value in student.module.state_dict().values()]
