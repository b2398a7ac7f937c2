"""What stands between any teacher and the labels: order of classes, shape and type, checked on every batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.teachers.teacher import Answer, RawTeacher, TeacherClassesError, TeacherOutputError, in_order

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
        self.raw, self._name = raw, name
        order = [known.index(wanted) for wanted in classes]
        self._order = slice(None) if order == list(range(len(known))) else order
        """Columns as the run file wants them; as they are, without a copy, where that is the same."""

    def batches(self, inputs: Any, rows: int) -> Sequence[NDArray[np.int64]]:
        """Places of the inputs, each in one batch: as the teacher likes them together, else `rows` at a time."""
        liked = self.liked_batches(inputs)
        return in_order(len(inputs), rows) if liked is None else liked

    def liked_batches(self, inputs: Any) -> Sequence[NDArray[np.int64]] | None:
        """The same, or None if the teacher does not care. Raises TeacherOutputError where a place is missing or there twice."""
        own = getattr(self.raw, "batches", None)
        liked = None if own is None else own(inputs)
        if liked is None:
            return None
        batches = [np.asarray(batch, dtype=np.int64) for batch in liked if len(batch)]
        if not np.array_equal(np.sort(np.concatenate([*batches, np.empty(0, dtype=np.int64)])), np.arange(len(inputs))):
            found, expected = f"batches of {sum(map(len, batches))} places for {len(inputs)} inputs", "each place from 0 on, once"
            raise TeacherOutputError(self._name, found, expected)
        return batches

    def log_probs(self, inputs: Any) -> NDArray[np.float32]:
        return self.answer(inputs).log_probs_BK

    def answer(self, inputs: Any) -> Answer:
        """What the teacher says, checked. Raises TeacherOutputError."""
        if len(inputs) == 0:
            return Answer(log_probs_BK=np.empty((0, len(self.classes)), dtype=np.float32))
        given = self.raw.log_probs(inputs)
        more = given if isinstance(given, Answer) else Answer(log_probs_BK=given)
        log_probs_BK = self._log_probs(np.asarray(more.log_probs_BK), rows=len(inputs))
        disagreement_B = self._floats("disagreement", more.disagreement_B, (len(inputs),))
        if disagreement_B is not None and (disagreement_B < 0).any():
            raise TeacherOutputError(self._name, f"a disagreement of {disagreement_B.min():.4g} nats", "one that is not negative")
        width = (np.shape(more.embedding_BD) or (0,))[-1] if more.embedding_BD is not None else 0
        embedding_BD = self._floats("embedding", more.embedding_BD, (len(inputs), width))
        return Answer(log_probs_BK=log_probs_BK, disagreement_B=disagreement_B, embedding_BD=embedding_BD)

    def _log_probs(self, given: NDArray[Any], *, rows: int) -> NDArray[np.float32]:
        expected = (rows, len(self.classes))
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

    def _floats(self, what: str, given: Any, expected: tuple[int, ...]) -> NDArray[np.float32] | None:
        if given is None:
            return None
        array = np.asarray(given)
        if array.shape != expected or array.dtype.kind != "f":
            raise TeacherOutputError(self._name, f"{what}: {array.dtype} of shape {array.shape}", f"floats of shape {expected}")
        if not np.isfinite(array).all():
            raise TeacherOutputError(self._name, f"{what} with NaN or infinite values", "finite values")
        return np.ascontiguousarray(array, dtype=np.float32)
