"""An ONNX file as a teacher, in onnxruntime.

The graph takes one input, strings [B] or [B, 1] or float32 [B, F], and its first output (or the one that the option `output` names) is
[B, K]. Classes are the option `classes`, or the file's metadata `classes` (JSON), or the run file's, in that order.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pipeline.config import TeacherSection
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.logits import Gives, checked_options, classes_of, gives_of, log_probs_of
from pipeline.teachers.teacher import RawTeacher, TeacherLoadError

OPTIONS = ("classes", "gives", "output", "providers")


def load_onnx(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """The teacher in the file `section.path`. Raises TeacherLoadError."""
    options = checked_options(section, OPTIONS)
    if section.path is None or not (path := base / section.path).is_file():
        remedy = "name it as `teacher.path` in the run file"
        raise TeacherLoadError(f"teacher {section.use}", f"no file {section.path!r}", "an ONNX file", remedy)
    session = _session(path, section, options.get("providers"))
    if len(session.get_inputs()) != 1:
        names = [taken.name for taken in session.get_inputs()]
        raise TeacherLoadError(str(path), f"inputs {names}", "one input: what the samples are", "export it so that preprocessing is inside")
    outputs = [given.name for given in session.get_outputs()]
    output = options.get("output", outputs[0])
    if output not in outputs:
        raise TeacherLoadError(str(path), f"no output {output!r}", f"one of: {', '.join(outputs)}", "correct `teacher.options.output`")
    described = session.get_modelmeta().custom_metadata_map.get("classes")
    return OnnxTeacher(
        session,
        output=output,
        gives=gives_of(section),
        classes=classes_of(section, classes, json.loads(described) if described else None),
        fingerprint=fingerprint_of({"use": section.use, "options": options, "onnxruntime": onnxruntime.__version__}, path),
    )


class OnnxTeacher:
    """A session. May be called by one thread at a time."""

    def __init__(self, session: Any, *, output: str, gives: Gives, classes: Sequence[str], fingerprint: str) -> None:
        self.classes, self.fingerprint = classes, fingerprint
        self._session, self._output, self._gives = session, output, gives
        self._input = session.get_inputs()[0]

    def log_probs(self, inputs: Any) -> Any:
        given = to_list_or_matrix(inputs)
        if self._input.type == "tensor(string)":
            given = np.array(given, dtype=object).reshape((-1, 1) if len(self._input.shape) == 2 else (-1,))
        return log_probs_of(self._session.run([self._output], {self._input.name: given})[0], self._gives)


def _session(path: Path, section: TeacherSection, providers: Sequence[str] | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = section.threads, 1
    wanted = list(providers or (["CUDAExecutionProvider"] if section.gpus else []) + ["CPUExecutionProvider"])
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=wanted)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise TeacherLoadError(str(path), f"does not load ({str(error)[:200]})", "an ONNX file", "export it again") from error
