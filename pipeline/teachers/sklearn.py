"""A scikit-learn classifier as a teacher: a folder with `model.skops` and `teacher.json`.

skops builds only types that are on a list, and this module's list is short; nothing is unpickled. Sizes are bounded before
anything is read. The fingerprint is the model's bytes, what `teacher.json` says, and the versions of the libraries that
compute.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
import skops.io

from pipeline.config import TeacherSection
from pipeline.files import read_bounded, write_atomic
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.teacher import RawTeacher, TeacherLoadError

VERSION = 1
MODEL_FILE, DESCRIPTION_FILE = "model.skops", "teacher.json"
MAX_MODEL_BYTES = 512 * 2**20
MAX_UNPACKED_BYTES = 2 * 2**30
MAX_DESCRIPTION_BYTES = 64 * 2**10
TRUSTED = ("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration")
"""Types beyond those skops itself trusts (scikit-learn's own estimators and numpy) that a model file may hold."""


def save_sklearn(folder: Path, model: Any, *, kind: str) -> None:
    """Write a fitted classifier as a teacher. The description goes last: without it the folder is no teacher."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / MODEL_FILE, skops.io.dumps(model, compression=zipfile.ZIP_DEFLATED), mode=0o644)
    description = {"version": VERSION, "kind": kind, "classes": [str(name) for name in model.classes_], "sklearn": sklearn.__version__}
    write_atomic(folder / DESCRIPTION_FILE, json.dumps(description, indent=1).encode(), mode=0o644)


def load_sklearn(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """Load the teacher in `section.path`. `options.trusted` lists further types to allow. Raises TeacherLoadError."""
    if section.path is None:
        raise TeacherLoadError("teacher sklearn", "no `path`", "a folder with model.skops and teacher.json", "name it in the run file")
    unknown = sorted(set(section.options) - {"trusted"})
    if unknown:
        raise TeacherLoadError(
            "teacher sklearn", f"unknown option {unknown[0]!r}", "one of: trusted", "correct `teacher.options` in the run file"
        )
    folder = base / section.path
    description = _describe(folder)
    packed = _read(folder / MODEL_FILE, MAX_MODEL_BYTES)
    model = _unpack(packed, folder / MODEL_FILE, trusted=[*TRUSTED, *_trusted(section)])
    if not (hasattr(model, "predict_log_proba") or hasattr(model, "predict_proba")) or not hasattr(model, "classes_"):
        raise TeacherLoadError(
            str(folder), f"a {type(model).__name__}", "a fitted classifier with predict_proba", "fit one that gives probabilities"
        )
    return SklearnTeacher(model, kind=description["kind"], fingerprint=_fingerprint(packed, description))


class SklearnTeacher:
    """A fitted classifier or pipeline."""

    def __init__(self, model: Any, *, kind: str, fingerprint: str) -> None:
        self.classes: Sequence[str] = [str(name) for name in model.classes_]
        self.fingerprint = fingerprint
        self._model, self._kind = model, kind

    def log_probs(self, inputs: Any) -> Any:
        features = to_list_or_matrix(inputs)
        if hasattr(self._model, "predict_log_proba"):
            return np.asarray(self._model.predict_log_proba(features), dtype=np.float64)
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(self._model.predict_proba(features), dtype=np.float64))


def _trusted(section: TeacherSection) -> Sequence[str]:
    names = section.options.get("trusted", [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TeacherLoadError(
            "teacher sklearn", f"trusted = {names!r}", "a list of type names", "correct `teacher.options` in the run file"
        )
    return names


def _describe(folder: Path) -> dict[str, Any]:
    raw = _read(folder / DESCRIPTION_FILE, MAX_DESCRIPTION_BYTES)
    try:
        description = json.loads(raw)
        version, kind = description["version"], description["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TeacherLoadError(
            str(folder / DESCRIPTION_FILE), "not a teacher's description", "JSON with version and kind", "make the teacher again"
        ) from error
    if version != VERSION or kind not in ("text", "floats"):
        raise TeacherLoadError(
            str(folder / DESCRIPTION_FILE), f"version {version!r}, kind {kind!r}", f"version {VERSION}, text or floats", "update kdpipe"
        )
    return dict(description)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return read_bounded(path, max_bytes)
    except FileNotFoundError as error:
        there = ", ".join(sorted(entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else "no such folder"
        raise TeacherLoadError(
            str(path), f"missing (there: {there or 'nothing'})", "a teacher's folder", "correct `teacher.path` in the run file"
        ) from error


def _unpack(packed: bytes, path: Path, *, trusted: Sequence[str]) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
        if unpacked_bytes > MAX_UNPACKED_BYTES:
            raise TeacherLoadError(str(path), f"unpacks to {unpacked_bytes} bytes", f"at most {MAX_UNPACKED_BYTES}", "do not use this file")
        untrusted = sorted(set(skops.io.get_untrusted_types(data=packed)) - set(trusted))
        if untrusted:
            raise TeacherLoadError(
                str(path),
                f"holds {', '.join(untrusted)}",
                "types that are trusted",
                "list them in `teacher.options.trusted` if you know who wrote the file",
            )
        return skops.io.loads(packed, trusted=list(trusted))
    except TeacherLoadError:
        raise
    except Exception as error:  # a damaged model file fails in many of skops's, numpy's and zipfile's ways
        raise TeacherLoadError(
            str(path), f"does not load ({type(error).__name__}: {error!s:.120})", "a whole skops file", "make the teacher again"
        ) from error


def _fingerprint(packed: bytes, description: dict[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    backend = {"sklearn": sklearn.__version__, "scipy": scipy.__version__, "numpy": np.__version__}
    digest.update(json.dumps([backend, description], sort_keys=True).encode())
    digest.update(hashlib.blake2b(packed).digest())
    return digest.hexdigest()
