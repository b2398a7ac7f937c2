"""A user's own teacher: `module:callable` of the run file.

`callable(**options)` returns an object with `classes` and `log_probs(inputs)` (and, if it likes, `fingerprint`, `deterministic` and
`batches(inputs)`), which may answer with an `Answer`; or a `torch.nn.Module` that gives logits in the run file's order of classes; or
the callable is itself a plain function `inputs, **options -> probabilities [B, K]` in the run file's order of classes; it is
told apart by needing an argument that the options do not give. `path`, where the run file has one, is an option too.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import TeacherSection
from pipeline.errors import KdpipeError
from pipeline.references import fault_of, import_reference, source_fingerprint
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.teacher import RawTeacher, TeacherLoadError


def load_callable(section: TeacherSection, classes: tuple[str, ...], base: Path, *, shipped: Iterable[str] = ()) -> RawTeacher:
    """The user's teacher; `shipped` are names of ours, for the message. Raises ReferenceNotFoundError, TeacherLoadError."""
    make = import_reference(section.use, base=base, shipped=shipped)
    options = dict(section.options)
    if section.path is not None:
        options["path"] = base / section.path
    fingerprint = _fingerprint(section, base)
    if _is_plain_function(make, options):
        return PlainFunction(make, options, classes=classes, fingerprint=fingerprint)
    try:
        made = make(**options)
    except KdpipeError:
        raise
    except Exception as error:
        found = fault_of(error, base=base.resolve())
        raise TeacherLoadError(f"teacher {section.use}", found, "a teacher that loads", "correct it, or `teacher.options`") from error
    if "torch" in sys.modules and isinstance(made, sys.modules["torch"].nn.Module) and not hasattr(made, "log_probs"):
        from pipeline.teachers.torch import module_teacher  # it is made of torch: nothing more is loaded

        return module_teacher(made, section=section, classes=classes, fingerprint=fingerprint)
    if not callable(getattr(made, "log_probs", None)) or not hasattr(made, "classes"):
        raise TeacherLoadError(
            f"teacher {section.use}",
            f"it returned a {type(made).__name__}",
            "an object with `classes` and `log_probs`",
            "see docs/run-file.md",
        )
    return MadeTeacher(made, fingerprint=fingerprint)


class PlainFunction:
    """A function from inputs (list of text, or float32 [B, F]) to probabilities, as a teacher."""

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any], *, classes: Sequence[str], fingerprint: str) -> None:
        self.classes, self.fingerprint = classes, fingerprint
        self._function, self._options = function, options

    def log_probs(self, inputs: Any) -> Any:
        probs_BK = np.asarray(self._function(to_list_or_matrix(inputs), **self._options), dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(probs_BK)


class MadeTeacher:
    """The object that the user's factory made."""

    def __init__(self, made: Any, *, fingerprint: str) -> None:
        self.classes: Sequence[str] = made.classes
        self.fingerprint = str(getattr(made, "fingerprint", None) or fingerprint)
        self.deterministic = bool(getattr(made, "deterministic", True))
        self._made = made

    def batches(self, inputs: Any) -> Any:
        liked = getattr(self._made, "batches", None)
        return None if liked is None else liked(inputs)

    def log_probs(self, inputs: Any) -> Any:
        return self._made.log_probs(inputs)


def _is_plain_function(make: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return False  # built in, without a signature: it can only be a factory
    required = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in options
    ]
    return len(required) == 1


def _fingerprint(section: TeacherSection, base: Path) -> str:
    facts = {"use": section.use, "source": source_fingerprint(section.use, base=base), "options": dict(section.options)}
    return fingerprint_of(facts, *([] if section.path is None else [base / section.path]))
