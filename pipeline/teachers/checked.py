"""What stands between any teacher and the labels: order of classes, shape and type, checked on every batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.teachers.teacher import RawTeacher, TeacherClassesError, TeacherOutputError

SUM_TOLERANCE = 1e-2
"""How far a row's probabilities may be from summing to 1: wide enough for half precision, far from logits."""


class CheckedTeacher:
    """A `Teacher` whose columns are in the run file's order."""

    def __init__(self, raw: RawTeacher, *, name: str, classes: tuple[str, ...]) -> None:
        known = [str(known) for known in raw.classes]
        if len(known) != len(classes) or set(known) != set(classes):
            raise TeacherClassesError(name, known, classes)
        self.classes = classes
        self.fingerprint = raw.fingerprint
        self.deterministic = bool(getattr(raw, "deterministic", True))
        self._raw, self._name = raw, name
        order = [known.index(wanted) for wanted in classes]
        self._order = slice(None) if order == list(range(len(known))) else order
        """Columns as the run file wants them; as they are, without a copy, where that is the same."""

    def batches(self, inputs: Any, rows: int) -> Sequence[NDArray[np.int64]]:
        """Places of the inputs, each in one batch: as the teacher likes them together, else `rows` at a time."""
        own = getattr(self._raw, "batches", None)
        return own(inputs) if own else [np.arange(start, min(start + rows, len(inputs))) for start in range(0, len(inputs), rows)]

    def log_probs(self, inputs: Any) -> NDArray[np.float32]:
        if len(inputs) == 0:
            return np.empty((0, len(self.classes)), dtype=np.float32)
        given = np.asarray(self._raw.log_probs(inputs))
        expected = (len(inputs), len(self.classes))
        if given.shape != expected or given.dtype.kind != "f":
            raise TeacherOutputError(self._name, f"{given.dtype} of shape {given.shape}", f"floats of shape {expected}")
        log_probs_BK: NDArray[np.float32] = np.ascontiguousarray(given[:, self._order], dtype=np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            sums_B = np.exp(log_probs_BK).sum(axis=1, dtype=np.float64)
        # NaN and all -inf rows are single bad samples, for the caller to set aside.
        odd_B = np.isfinite(sums_B) & (sums_B > 0) & (abs(sums_B - 1) > SUM_TOLERANCE) | np.isposinf(sums_B)
        if odd_B.any():
            row = int(np.argmax(odd_B))
            raise TeacherOutputError(
                self._name, f"row {row} sums to {sums_B[row]:.4g} as probabilities", "natural log-probabilities that sum to 1"
            )
        return log_probs_BK
