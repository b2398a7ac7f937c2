"""From what a model gives to log-probabilities. B inputs, K classes."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TeacherSection
from pipeline.teachers.teacher import TeacherLoadError

Gives = Literal["logits", "log_probs", "probs"]


def log_probs_of(given_BK: Any, gives: Gives) -> NDArray[np.float32]:
    """Natural log-probabilities [B, K]; a single logit [B] or [B, 1] is that of the second of two classes."""
    array_BK = np.asarray(given_BK, dtype=np.float32)
    if gives == "probs":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(array_BK)
    if gives == "log_probs":
        return array_BK
    if array_BK.ndim == 1 or array_BK.shape[1] == 1:
        array_BK = np.stack([np.zeros(len(array_BK), dtype=np.float32), array_BK.reshape(len(array_BK))], axis=1)
    shifted_BK = array_BK - array_BK.max(axis=1, keepdims=True)
    return np.asarray(shifted_BK - np.log(np.exp(shifted_BK).sum(axis=1, keepdims=True)), dtype=np.float32)


def checked_options(section: TeacherSection, known: Sequence[str]) -> dict[str, Any]:
    """The options of a teacher that kdpipe ships. Raises TeacherLoadError for one that it does not have."""
    unknown = sorted(set(section.options) - set(known))
    if unknown:
        where, expected = f"teacher {section.use}", f"one of: {', '.join(known) or 'none'}"
        raise TeacherLoadError(where, f"unknown option {unknown[0]!r}", expected, "correct `teacher.options` in the run file")
    return dict(section.options)


def gives_of(section: TeacherSection) -> Gives:
    """What the model's output is, by the option `gives`."""
    gives = section.options.get("gives", "logits")
    if gives not in get_args(Gives):
        expected = f"one of: {', '.join(get_args(Gives))}"
        raise TeacherLoadError(f"teacher {section.use}", f"gives = {gives!r}", expected, "correct `teacher.options` in the run file")
    return gives  # type: ignore[no-any-return]


def classes_of(section: TeacherSection, classes: tuple[str, ...], described: Sequence[str] | None = None) -> tuple[str, ...]:
    """The model's classes in the order of its output: the option `classes`, else what the file says, else the run file's order."""
    named = section.options.get("classes", described)
    return classes if named is None else tuple(str(name) for name in named)
