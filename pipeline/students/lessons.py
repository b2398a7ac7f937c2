"""From a batch of labels to what a student is taught by: its inputs, the lesson, the evidence of what counts.

Randomness is drawn from (seed, epoch, position), so that it is the same after a restart and however ranks cut the batch.

Shapes: B batch (this rank's slice), K classes.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import StudentSection
from pipeline.distill.losses import NO_LABEL, Lesson, Recorded, check_losses
from pipeline.distill.weighting import Evidence, check_policies
from pipeline.errors import ConfigError
from pipeline.inputs import encode
from pipeline.labels.codecs import SparseLabels
from pipeline.labels.reader import LabelBatch
from pipeline.students.models import Student


def check_section(name: str, section: StudentSection, *, classes: int, codec: str | None = None, labelled: bool = True) -> None:
    """Raises ConfigError for losses, policies or numbers of theirs that can't be had: from labels of that codec, where it is known, or
    where samples are not `labelled` by their source.
    """
    where = f"students.{name}"
    check_losses(
        section.loss,
        where=f"{where}.loss",
        classes=classes,
        temperature=section.temperature,
        options=section.loss_options,
        codec=codec,
    )
    if not labelled and {loss for loss, share in section.loss.items() if share} == {"ce"}:
        expected = "a loss that learns from the teacher, or hard labels in the stream"
        raise ConfigError(
            f"{where}.loss", "ce alone, and `stream.label` is not set", expected, 'take `kl`, or set `stream.label = "COLUMN"`'
        )
    check_policies(section.weighting, where=f"{where}.weighting", options=section.weighting_options)


def lesson_of(batch: LabelBatch, class_of: Mapping[str, int]) -> Lesson:
    """What is known of the samples; a hard label that is none of the classes counts as none."""
    hard = [NO_LABEL if label is None else class_of.get(label, NO_LABEL) for label in batch.hard_label]
    embedding_BD = None if batch.embedding_BD is None else torch.from_numpy(np.ascontiguousarray(batch.embedding_BD))
    return Lesson(
        log_probs_BK=torch.from_numpy(np.ascontiguousarray(batch.log_probs_BK)),
        hard_B=torch.tensor(hard, dtype=torch.int64),
        recorded=recorded_of(batch.recorded),
        embedding_BD=embedding_BD,
    )


def recorded_of(labels: SparseLabels | None) -> Recorded | None:
    """What a sparse codec kept, as tensors."""
    if labels is None:
        return None
    return Recorded(
        ids_BR=torch.from_numpy(labels.ids_NR.astype(np.int64)),
        log_probs_BR=torch.from_numpy(np.array(labels.log_probs_NR)),
        tail_B=torch.from_numpy(np.array(labels.tail_N)),
    )


def evidence_of(batch: LabelBatch, rows: slice, *, student_BK: NDArray[np.float32], prior_K: NDArray[np.float32]) -> Evidence:
    """What decides how much each of these rows counts. `student_BK` has the student's probabilities for them."""
    return Evidence(
        weight_B=batch.weight_B[rows],
        entropy_B=batch.entropy_B[rows],
        margin_B=batch.margin_B[rows],
        disagreement_B=batch.disagreement_B[rows],
        agreement_B=batch.agreement_B[rows],
        teacher_BK=np.exp(batch.log_probs_BK[rows]),
        student_BK=student_BK,
        prior_K=prior_K,
    )


def inputs_of(batch: LabelBatch, student: Student, *, seed: int, epoch: int, start: int, rank: int, world: int) -> NDArray[Any]:
    """What the student eats, texts shifted by its jitter. `start` is the position of the whole batch's first sample."""
    if student.kind == "floats":
        return _numbers(batch, width=student.width)
    values = batch.inputs.to_pylist()
    if not student.jitter_bytes:
        return encode(values, kind=student.kind, width=student.width)
    # One draw a position of the whole batch, so that the shift does not depend on how ranks cut it.
    raw = np.random.Philox(key=draw(seed, epoch, start, 0)).random_raw(batch.batch_rows)
    first = batch.batch_rows * rank // world
    shift_B = (raw[first : first + len(values)] % np.uint64(student.jitter_bytes)).astype(int)
    return encode(["\0" * int(shift) + text for shift, text in zip(shift_B, values, strict=True)], kind="text", width=student.width)


def _numbers(batch: LabelBatch, *, width: int) -> NDArray[Any]:
    """`encode`, for lists that are a matrix as they should, without a Python object a number. Raises InputShapeError."""
    numbers_BF = batch.inputs_BF
    if numbers_BF is None or numbers_BF.shape[1] != width or not np.isfinite(numbers_BF).all():
        return encode(batch.inputs.to_pylist(), kind="floats", width=width)  # which says what is wrong with which row
    return np.asarray(numbers_BF, dtype=np.float32)


def draw(*key: int) -> int:
    """64 bits that depend on nothing but the key."""
    return int.from_bytes(hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest(), "little")
