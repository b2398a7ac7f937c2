"""Teachers: what turns inputs into log-probabilities, behind one `Teacher` protocol."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pipeline.config import TeacherSection
from pipeline.teachers.callables import load_callable
from pipeline.teachers.checked import CheckedTeacher
from pipeline.teachers.teacher import RawTeacher, Teacher, TeacherClassesError, TeacherLoadError, TeacherOutputError

__all__ = ["TEACHERS", "Teacher", "TeacherClassesError", "TeacherOutputError", "load_teacher"]

Loader = Callable[[TeacherSection, tuple[str, ...], Path], RawTeacher]


def _load_sklearn(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """scikit-learn and skops are seconds to import: only for a teacher that is made of them."""
    from pipeline.teachers.sklearn import load_sklearn

    return load_sklearn(section, classes, base)


def _load_onnx(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    from pipeline.teachers.onnx import load_onnx

    return load_onnx(section, classes, base)


def _load_export(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    from pipeline.teachers.torch import load_export

    return load_export(section, classes, base)


def _load_transformers(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    try:
        from pipeline.teachers.transformers import load_transformers
    except ModuleNotFoundError as error:
        raise TeacherLoadError(
            "teacher transformers", f"no package {error.name!r}", "kdpipe[transformers]", "pip install 'kdpipe[transformers]'"
        ) from error
    return load_transformers(section, classes, base)


def _load_openai(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    from pipeline.teachers.openai import load_openai

    return load_openai(section, classes, base)


def _load_ensemble(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    from pipeline.teachers.ensemble import load_ensemble

    return load_ensemble(section, load=lambda member: load_teacher(member, classes=classes, base=base))


TEACHERS: Mapping[str, Loader] = {
    "sklearn": _load_sklearn,
    "onnx": _load_onnx,
    "torch_export": _load_export,
    "transformers": _load_transformers,
    "ensemble": _load_ensemble,
    "openai": _load_openai,
}
"""Loaders by bare name; anything else is the user's `module:callable`."""


def load_teacher(section: TeacherSection, *, classes: tuple[str, ...], base: Path) -> Teacher:
    """The teacher of a run file, answering in the order of `classes`. Paths and modules are relative to `base`.

    Raises TeacherClassesError where it knows other classes, TeacherLoadError where it cannot be loaded.
    """
    loader = TEACHERS.get(section.use) or partial(load_callable, shipped=TEACHERS)
    return CheckedTeacher(loader(section, classes, base), name=section.use, classes=classes)
