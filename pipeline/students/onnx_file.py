"""The two files of a student, graph and weights, without anything that tells where they were made.

`graph.onnx` is fixed for an architecture: two trainings differ in `weights.bin` alone, which holds every trained value, scales of
int8 included, each at a multiple of 16 bytes. Shapes and axes, which are not trained, stay in the graph, where the runtime needs them to
plan. Left to others: what goes into the weights (`export`).
"""

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch

from pipeline.errors import StudentError
from pipeline.students.models import Student

logger = logging.getLogger(__name__)

OPSET = 20
GRAPH, WEIGHTS = "graph.onnx", "weights.bin"
_SCOPES = "pkg.torch.onnx.name_scopes"


class ExportError(StudentError):
    """A module that does not become a graph."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(name, found)
        self.name, self.found = name, found

    def __str__(self) -> str:
        return (
            f"student {self.name}: its module does not export to ONNX ({self.found}); expected operations that ONNX has and "
            "shapes that do not depend on values; try `torch.onnx.export(module, (example,), dynamo=True)` on it"
        )


def to_onnx(name: str, student: Student) -> tuple[Any, list[str]]:
    """The graph, and the names of its nodes that come from the student's `float_parts`. Raises ExportError."""
    module = student.module.eval()
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # it prints the graph that it gave up on
            program = torch.onnx.export(
                module,
                (student.example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # its passes raise whatever they like over a user's module
        raise ExportError(name, _cause(error)) from error
    assert program is not None
    floats = nodes_of(program.model_proto, getattr(module, "float_parts", ()))
    return anonymous(program.model_proto), floats


def _cause(error: BaseException) -> str:
    """What began it, in a line: what the exporter raises itself says how far it came."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def nodes_of(model: Any, parts: Collection[str]) -> list[str]:
    """Names of the nodes that the exporter made of these submodules, by what it says of each node's scopes."""
    scopes = {
        str(node.name): ast.literal_eval(prop.value) for node in model.graph.node for prop in node.metadata_props if prop.key == _SCOPES
    }
    return [name for name, path in scopes.items() if set(parts).intersection(path)]


def anonymous(model: Any) -> Any:
    """Without paths, stack traces and tool names: neither belongs on a device, nor are they the same on two machines."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for field in ("metadata_props", "doc_string", "value_info"):
        model.graph.ClearField(field)
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version", "functions"):
        if field != "functions" or not model.functions:
            model.ClearField(field)
    model.graph.name = "student"
    used = {str(node.domain) for node in model.graph.node} | {str(function.domain) for function in model.functions}
    for opset in [opset for opset in model.opset_import if opset.domain not in used]:
        model.opset_import.remove(opset)
    return model


def split(model: Any, folder: Path) -> tuple[Path, Path]:
    """Write the graph and, beside it, one blob of all trained values."""
    anonymous(model)
    folder.mkdir()
    graph, weights = folder / GRAPH, folder / WEIGHTS
    offset, blob = 0, io.BytesIO()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: str(tensor.name)):
        if tensor.data_type == onnx.TensorProto.INT64:
            continue
        data = onnx.numpy_helper.to_array(tensor).tobytes()
        if not data:
            continue
        padding = -offset % 16
        blob.write(b"\0" * padding + data)
        offset += padding
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
        offset += len(data)
    weights.write_bytes(blob.getvalue())
    graph.write_bytes(model.SerializeToString(deterministic=True))
    return graph, weights


class _Quantiser(logging.Filter):
    """Takes what onnxruntime's quantiser says through the root logger, and says it as ours.

    It advises to pre-process a graph, also where that was tried and lost too much; nobody at the terminal can do anything about it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if "quantization" not in record.pathname or "onnxruntime" not in record.pathname:
            return True
        logger.debug("the quantiser says", extra={"said": record.getMessage()})
        return False


@contextlib.contextmanager
def quantiser_kept_off_the_root_logger() -> Iterator[None]:
    """The root logger has a handler meanwhile, or the first word of the quantiser would give it one for good."""
    root, heard, nowhere = logging.getLogger(), _Quantiser(), logging.NullHandler()
    root.addFilter(heard)
    root.addHandler(nowhere)
    try:
        yield
    finally:
        root.removeFilter(heard)
        root.removeHandler(nowhere)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter warns about itself. Only its own loggers are turned down: other threads of this process keep theirs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
