"""What the teacher says about the samples that judge: asked once, then recalled.

The answers are kept under the teacher's fingerprint and a hash of the inputs, so a run that goes on, and every later generation,
asks nothing again.
"""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.files import make_private_folder, read_bounded, write_atomic
from pipeline.students.samples import Samples, Validation
from pipeline.teachers import Teacher

MAX_ANSWERS_BYTES = 2**30


def asked_once(samples: Samples, teacher: Teacher, folder: Path) -> Samples:
    """The samples with the teacher's log-probabilities, NaN where it fails; from `folder` where they are known.

    Of a teacher that answers nothing, nothing is kept: it is about to be mended.
    """
    path = folder / f"{_digest(samples, teacher)}.npy"
    try:
        return replace(samples, teacher_NK=np.load(io.BytesIO(read_bounded(path, MAX_ANSWERS_BYTES)), allow_pickle=False))
    except FileNotFoundError:
        pass
    asked = samples.with_teacher(teacher)
    assert asked.teacher_NK is not None
    if not len(asked.answered()):
        return asked
    buffer = io.BytesIO()
    np.save(buffer, asked.teacher_NK, allow_pickle=False)
    make_private_folder(folder)
    write_atomic(path, buffer.getvalue())
    return asked


def validation_answered(validation: Validation, teacher: Teacher, folder: Path) -> Validation:
    """All three parts, of what the teacher answers."""
    return validation.answered(lambda samples: asked_once(samples, teacher, folder))


def _digest(samples: Samples, teacher: Teacher) -> str:
    digest = hashlib.blake2b(teacher.fingerprint.encode(), digest_size=16)
    for value in samples.inputs:
        digest.update(repr(value).encode())
        digest.update(b"\0")
    return digest.hexdigest()
