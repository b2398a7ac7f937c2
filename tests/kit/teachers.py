"""Teachers for tests: one in memory that counts what it is asked and fails on request, and small real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline.teachers.sklearn import save_sklearn


class CountingTeacher:
    """A `Teacher` whose answer is a pure function of the input. Faults are method calls."""

    deterministic = True

    def __init__(self, classes: Sequence[str] = ("ham", "spam"), fingerprint: str = "counting-1") -> None:
        self.classes = tuple(classes)
        self.fingerprint = fingerprint
        self.asked: list[Any] = []
        """Every input, in the order it was asked about."""
        self._fails_in: int | None = None
        self._poison: set[Any] = set()

    def fail_after(self, calls: int) -> None:
        """The call after `calls` good ones raises."""
        self._fails_in = calls

    def poison(self, value: Any) -> None:
        """That input is answered with NaN."""
        self._poison.add(value)

    def log_probs(self, inputs: Any) -> NDArray[np.float32]:
        if self._fails_in is not None:
            self._fails_in -= 1
            if self._fails_in < 0:
                raise RuntimeError("the teacher was told to fail")
        values = inputs.to_pylist()
        self.asked.extend(values)
        scores_BK = np.array([[(len(str(value)) * (k + 3)) % 7 for k in range(len(self.classes))] for value in values], dtype=np.float64)
        scores_BK = scores_BK.reshape(len(values), len(self.classes))
        log_probs_BK = scores_BK - np.log(np.exp(scores_BK).sum(axis=1, keepdims=True))
        log_probs_BK[[value in self._poison for value in values]] = np.nan
        return log_probs_BK.astype(np.float32)


def write_text_teacher(folder: Path) -> Path:
    """A fitted sklearn teacher of `ham` and `spam`, saved as a run file's `teacher.path` expects it."""
    texts = ["meeting about the kernel patch", "please compile the release", "win free money now", "click for a free mortgage offer"] * 5
    model = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3)), LogisticRegression(C=10))
    save_sklearn(folder, model.fit(texts, ["ham", "ham", "spam", "spam"] * 5), kind="text")
    return folder
