"""Teachers: what turns inputs into log-probabilities, behind one `Teacher` protocol."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.config import TeacherSection
from pipeline.teachers.callables import load_callable
from pipeline.teachers.checked import CheckedTeacher
from pipeline.teachers.teacher import RawTeacher, Teacher, TeacherClassesError, TeacherOutputError

__all__ = ["TEACHERS", "Teacher", "TeacherClassesError", "TeacherOutputError", "load_teacher"]

Loader = Callable[[TeacherSection, tuple[str, ...], Path], RawTeacher]


def _load_sklearn(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """scikit-learn and skops are seconds to import: only for a teacher that is made of them."""
    from pipeline.teachers.sklearn import load_sklearn

    return load_sklearn(section, classes, base)


TEACHERS: Mapping[str, Loader] = {"sklearn": _load_sklearn}
"""Loaders by bare name; anything else is the user's `module:callable`."""


def load_teacher(section: TeacherSection, *, classes: tuple[str, ...], base: Path) -> Teacher:
    """The teacher of a run file, answering in the order of `classes`. Paths and modules are relative to `base`.

    Raises TeacherClassesError where it knows other classes, TeacherLoadError where it cannot be loaded.
    """
    loader = TEACHERS.get(section.use, load_callable)
    return CheckedTeacher(loader(section, classes, base), name=section.use, classes=classes)
