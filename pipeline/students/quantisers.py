"""onnxruntime's two quantisers as kdpipe sets them, and how much of a file they made is int8.

Static int8 (QDQ) rounds convolutions, matrix products and embeddings, dynamic int8 matrix products alone; both leave a graph that has none
of these as it is, and say nothing. Left to others: which file ships (`export`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from pipeline.inputs import encode
from pipeline.students.drawing import drawn
from pipeline.students.models import Student
from pipeline.students.rounding import trained_tensors, with_headroom
from pipeline.students.samples import Samples

CALIBRATION_ROWS = 256
QUANTISED_OPS = ["Conv", "Gather", "Gemm", "MatMul"]
PREPARED = "prepared.onnx"
PASSING_ON = frozenset({"Cast", "Concat", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operations that move values about: what becomes of those is their consumers' business."""


def static_int8(plain: Path, path: Path, floats: list[str], student: Student, fit: Samples) -> None:
    """Write `path`, and `PREPARED` beside `plain`. Nodes named in `floats` stay as they are; a draw of `fit` calibrates."""
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    prepared = plain.with_name(PREPARED)
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    rows = drawn(fit, CALIBRATION_ROWS).inputs
    batches = [encode(rows[start : start + 32], kind=student.kind, width=student.width) for start in range(0, len(rows), 32)]
    quantize_static(
        str(prepared),
        str(path),
        _Calibration(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=QUANTISED_OPS,
        nodes_to_exclude=floats,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gather", "Gemm", "MatMul"]},
    )
    onnx.save_model(with_headroom(onnx.load(str(path)), floats=trained_tensors(onnx.load(str(prepared)))), str(path))


def dynamic_int8(plain: Path, path: Path, floats: list[str], student: Student, fit: Samples) -> None:
    """Write `path`. Nodes named in `floats` stay as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(plain),
        str(path),
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=floats,
    )


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a file's weights are; scales, zero points and rounded biases are none."""

    int8_share: float
    """0 where there are no weights."""
    in_floats: tuple[str, ...]
    """Operations that take weights in floats, a tenth of those or more: who takes most is first."""

    def __str__(self) -> str:
        floats = f": {', '.join(self.in_floats[:3])} in floats" if self.in_floats else ""
        return f"{100 * self.int8_share:.0f} % of the weights{floats}"


def held(model: Any, floats: Collection[str]) -> Held:
    """Of a quantised file. Weights of nodes named in `floats`, which were to stay as they are, do not count."""
    asked_for = {str(name) for node in model.graph.node if node.name in floats for name in node.input}
    tensors = {str(tensor.name): tensor for tensor in model.graph.initializer}
    rounded = {
        name for name, tensor in tensors.items() if tensor.data_type == onnx.TensorProto.INT8 and name.removesuffix("_quantized") != name
    }
    sizes = {
        name: _values(tensor)
        for name, tensor in tensors.items()
        if tensor.data_type in _FLOATS and name not in asked_for and not _is_scale(name, tensors)
    }
    codes = sum(_values(tensors[name]) for name in rounded)
    by_op: dict[str, int] = {}
    for name, values in sizes.items():
        for op in set(_consumers(model, name)):
            by_op[op] = by_op.get(op, 0) + values
    in_floats = sum(sizes.values())
    return Held(
        int8_share=codes / (codes + in_floats) if codes else 0.0,
        in_floats=tuple(sorted((op for op in by_op if 10 * by_op[op] >= in_floats), key=lambda op: (-by_op[op], op))),
    )


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


def _values(tensor: Any) -> int:
    count = 1
    for length in tensor.dims:
        count *= int(length)
    return count


def _is_scale(name: str, tensors: Collection[str]) -> bool:
    return name.endswith("_scale") and f"{name.removesuffix('_scale')}_zero_point" in tensors


def _consumers(model: Any, name: str) -> Iterator[str]:
    """Types of the operations that a value comes to."""
    for node in model.graph.node:
        if name not in node.input:
            continue
        if node.op_type not in PASSING_ON:
            yield str(node.op_type)
        else:
            for output in node.output:
                yield from _consumers(model, str(output))


class _Calibration:
    """Batches in the reading protocol of onnxruntime's calibrator."""

    def __init__(self, batches: list[NDArray[Any]]) -> None:
        self._rest = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._rest, None)
        return None if batch is None else {"input": batch}

    def __iter__(self) -> "_Calibration":
        return self

    def __next__(self) -> dict[str, NDArray[Any]]:
        return {"input": next(self._rest)}
