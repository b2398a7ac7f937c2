"""Students of pictures, taught in memory by the product's own trainer, and how well they do as modules."""

from pathlib import Path

import torch

from pipeline.config import StudentSection
from pipeline.distill.metrics import accuracy, log_softmax, nll, one_hot
from pipeline.students.control import train_in_memory
from pipeline.students.memory import Extras
from pipeline.students.models import Student, StudentSpec
from pipeline.students.samples import Samples
from tests.bench.pictures import CLASSES, pixels_of


def spec_of(section: StudentSection, *, seed: int) -> StudentSpec:
    return StudentSpec(name="student", section=section, classes=CLASSES, kind="floats", base=Path(), seed=seed)


def taught(section: StudentSection, samples: Samples, extras: Extras | None = None, *, seed: int) -> Student:
    return train_in_memory(spec_of(section, seed=seed), samples, extras)


def judged(student: Student, samples: Samples) -> tuple[float, float]:
    """Share right, and log loss in nats: greater first and less second is better."""
    student.module.eval()
    with torch.no_grad():
        log_probs_NK = log_softmax(student.module(torch.from_numpy(pixels_of(samples))).numpy())
    return accuracy(log_probs_NK, samples.hard_N), nll(log_probs_NK, one_hot(samples.hard_N, len(CLASSES)))


def rank(student: Student, choose: Samples) -> tuple[float, float]:
    """What the greatest of is chosen by: share right on `choose`, then less log loss."""
    right, nats = judged(student, choose)
    return right, -nats
