"""An ONNX file as a teacher, in onnxruntime.

The graph takes one input, strings [B] or [B, 1] or float32 [B, F], and its first output (or the one that the option `output` names) is
[B, K]. Classes are the option `classes`, or the file's metadata `classes` (JSON), or the run file's, in that order. Large tensors may lie
in files beside the graph ("external data", as `torch.onnx.export(dynamo=True)` writes them): the fingerprint covers these, too.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message

from pipeline.config import TeacherSection
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.logits import Gives, checked_options, classes_of, gives_of, log_probs_of
from pipeline.teachers.teacher import RawTeacher, TeacherLoadError

OPTIONS = ("classes", "gives", "output", "providers")


def load_onnx(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """The teacher in the file `section.path`. Raises TeacherLoadError."""
    options = checked_options(section, OPTIONS)
    if section.path is None:
        raise TeacherLoadError(f"teacher {section.use}", "no file", "an ONNX file", "name it as `teacher.path` in the run file")
    path = base / section.path
    session, files = open_model(path, section, providers=options.get("providers"))
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
        fingerprint=fingerprint_of({"use": section.use, "options": options, "onnxruntime": onnxruntime.__version__}, *files),
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


def open_model(path: Path, section: TeacherSection, *, providers: Sequence[str] | None = None) -> tuple[Any, list[Path]]:
    """A session, and the files that it is made of. Raises TeacherLoadError."""
    if not path.is_file():
        raise TeacherLoadError(str(path), "no file", "an ONNX file", "correct `teacher` in the run file")
    files = [path, *external_files(path)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = section.threads, 1
    wanted = list(providers or (["CUDAExecutionProvider"] if section.gpus else []) + ["CPUExecutionProvider"])
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=wanted), files
    except Exception as error:  # onnxruntime's own errors have no common base
        raise _unloadable(path, error) from error


def external_files(path: Path) -> list[Path]:
    """Files beside the graph that hold tensors of it. Raises TeacherLoadError."""
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise _unloadable(path, error) from error
    files = []
    for location in sorted({_location(tensor) for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL}):
        file = path.parent / location
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise TeacherLoadError(str(path), f"weights in {location!r}", "weights in the folder of the graph", "export it again")
        if not file.is_file():
            raise TeacherLoadError(str(path), f"no file {location!r} beside it", "all files of the export", "copy it there")
        files.append(file)
    return files


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, those of nodes, of inner graphs and of functions too."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from _tensors(part)


def _unloadable(path: Path, error: Exception) -> TeacherLoadError:
    return TeacherLoadError(str(path), f"does not load ({str(error)[:200]})", "an ONNX file", "export it again")
