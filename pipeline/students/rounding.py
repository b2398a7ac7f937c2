"""Rounding a student's int8 codes toward its incumbent's, so that few of them change and a delta is small.

    code = the incumbent's,                                       where the trained value is within `slack` steps of it
           the nearest to the value of those `slack` steps apart, elsewhere

A quantiser with a dead zone, of the differences: the fewer values they take, the fewer bytes they need (Sullivan, Wiegand 1998).

Scales and zero points stay the incumbent's: frozen from generation to generation, so that a weight that did not move keeps its code.
Values that are no codes (biases) keep the incumbent's in the same manner, a step being a 127th of the largest of their tensor. Half a
step of slack is plain rounding to frozen scales. Left to others: how much slack what ships can afford (`export`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

SLACKS = (16.0, 12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.5)
"""Steps of int8, most first; the last is rounding to the nearest code."""
_CODES, _SCALE, _ZERO = "_quantized", "_scale", "_zero_point"

Tensors = Mapping[str, NDArray[Any]]
"""Of a graph, by name."""


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A model of the new student in terms of its incumbent's."""

    model: Any
    codes_kept: float
    """Share of int8 codes that are the incumbent's."""


def trained_tensors(model: Any) -> dict[str, NDArray[Any]]:
    """What training decides: every initialiser but shapes and axes."""
    return {
        str(tensor.name): onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type != onnx.TensorProto.INT64
    }


def round_toward(model: Any, *, floats: Tensors, incumbent: Tensors, slack: float) -> Rounded:
    """`model` is the new student, quantised; `floats` are its values before that; `incumbent` has the same tensors, from one graph."""
    axes = _axes(model)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    kept = codes = 0
    for tensor in rounded.graph.initializer:
        name = str(tensor.name)
        if name not in incumbent:
            continue
        old = incumbent[name]
        new = _rounded(name, onnx.numpy_helper.to_array(tensor), old, floats=floats, incumbent=incumbent, axis=axes.get(name), slack=slack)
        if new.dtype == np.int8 and name.endswith(_CODES):
            kept, codes = kept + int((new == old).sum()), codes + new.size
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, name))
    return Rounded(model=rounded, codes_kept=kept / codes if codes else 1.0)


def _rounded(
    name: str, new: NDArray[Any], old: NDArray[Any], *, floats: Tensors, incumbent: Tensors, axis: int | None, slack: float
) -> NDArray[Any]:
    if name.endswith((_SCALE, _ZERO)):
        return old
    source = name.removesuffix(_CODES)
    if not name.endswith(_CODES) or source not in floats:
        return _kept_or(new.astype(old.dtype), old, np.abs(new.astype(np.float64) - old), slack)
    scale = _either(incumbent, source + _SCALE, name + _SCALE)
    zero = _either(incumbent, source + _ZERO, name + _ZERO)
    shape = [-1 if place == axis else 1 for place in range(new.ndim)] if scale.size > 1 else []
    steps = floats[source].astype(np.float64) / scale.reshape(shape) + zero.reshape(shape)
    if new.dtype != np.int8:  # a bias: its codes are far finer than a step
        return _kept_or(np.rint(steps).astype(new.dtype), old, np.abs(steps - old), slack)
    grain = max(1.0, slack)
    least = -128 if zero.any() else -127
    moved = np.clip(old + grain * np.rint((steps - old) / grain), least, 127)
    return np.where(np.abs(steps - old) <= slack, old, moved).astype(np.int8)


def _kept_or(new: NDArray[Any], old: NDArray[Any], moved: NDArray[Any], slack: float) -> NDArray[Any]:
    step = np.abs(new.astype(np.float64)).max(initial=0.0) / 127
    return np.where(moved <= slack * step, old, new).astype(new.dtype)


def _either(tensors: Tensors, *names: str) -> NDArray[Any]:
    return next(tensors[name] for name in names if name in tensors)


def _axes(model: Any) -> dict[str, int]:
    """Axis of the channels of each tensor of codes."""
    return {
        str(node.input[0]): int(attribute.i)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for attribute in node.attribute
        if attribute.name == "axis"
    }
