"""The honest control: the same student, the same number of steps, on the hard-labelled rows alone.

Whatever distillation adds is measured against this. Same batch, optimiser, schedule and shift; cross-entropy takes the place of the
run file's losses. Deterministic: same rows, section and seed, same weights.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.config import StudentSection
from pipeline.distill.losses import NO_LABEL
from pipeline.errors import StudentError
from pipeline.labels.evidence import agreement
from pipeline.students.loop import Moved, Trainer
from pipeline.students.memory import Extras, MemoryReader
from pipeline.students.models import Student, StudentSpec, build_student
from pipeline.students.samples import Samples


class ControlUnlabelledError(StudentError):
    """No sample to learn from has a hard label."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"control of student {self.name}: none of its samples has a hard label; expected `labelled` with `label` in the run file"


def control_section(section: StudentSection) -> StudentSection:
    """The student's section with cross-entropy in place of its losses."""
    return section.model_copy(update={"loss": {"ce": 1.0}, "loss_options": {}, "weighting": {}, "weighting_options": {}})


def memory_reader(
    samples: Samples, *, classes: tuple[str, ...], section: StudentSection, seed: int, extras: Extras | None = None
) -> MemoryReader:
    """The labels of `samples` in reading order: the teacher's answers where it was asked, the hard labels where there are some."""
    teacher_NK = samples.teacher_NK
    if teacher_NK is None:  # a placeholder that cross-entropy does not look at
        teacher_NK = np.full((len(samples), len(classes)), -np.log(len(classes)), dtype=np.float32)
    return MemoryReader(
        sample_ids=samples.ids,
        inputs=list(samples.inputs),
        log_probs_NK=teacher_NK,
        agreement_N=agreement(teacher_NK, samples.hard_N),
        extras=extras,
        hard_label=[None if hard == NO_LABEL else classes[hard] for hard in samples.hard_N],
        teacher="memory",
        batch=section.batch,
        seed=seed,
    )


def control_trainer(spec: StudentSpec, labelled: Samples, *, state: Mapping[str, object] | None = None) -> tuple[Trainer, Student]:
    """A trainer that has yet to take its steps. Raises ControlUnlabelledError."""
    rows = labelled.take(np.flatnonzero(labelled.hard_N != NO_LABEL).tolist())
    if not len(rows):
        raise ControlUnlabelledError(spec.name)
    section = control_section(spec.section)
    student = build_student(replace(spec, section=section))
    reader = memory_reader(replace(rows, teacher_NK=None), classes=spec.classes, section=section, seed=spec.seed)
    trainer = Trainer(
        name=f"{spec.name}-control", student=student, section=section, classes=spec.classes, reader=reader, seed=spec.seed, state=state
    )
    return trainer, student


def train_control(spec: StudentSpec, labelled: Samples) -> Student:
    """The trained control, in this process. Raises ControlUnlabelledError, NotFiniteError."""
    trainer, student = control_trainer(spec, labelled)
    while trainer.advance() is not Moved.DONE:
        pass
    return student


def train_in_memory(spec: StudentSpec, samples: Samples, extras: Extras | None = None) -> Student:
    """A student taught by the answers that `samples` carry and what else is known of them, in this process: for benchmarks, without Ray and
    without a store."""
    if samples.teacher_NK is None:
        raise ValueError("samples without the teacher's answers")
    student = build_student(spec)
    reader = memory_reader(samples, classes=spec.classes, section=spec.section, seed=spec.seed, extras=extras)
    trainer = Trainer(name=spec.name, student=student, section=spec.section, classes=spec.classes, reader=reader, seed=spec.seed)
    while trainer.advance() is not Moved.DONE:
        pass
    return student
