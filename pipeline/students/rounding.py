"""Rounding a student's int8 codes toward its incumbent's, so that few of them change and a delta is small.

    code = the incumbent's,                        where the trained value is within DEAD_ZONE grains of it
           the incumbent's + the nearest multiple of the grain, elsewhere

A uniform quantiser of the differences with a dead zone, as video codecs have: the fewer values they take, the fewer bytes they need. A
grain of one step is rounding to the nearest code.

Scales and zero points stay the incumbent's: frozen from generation to generation, so that a weight that did not move keeps its code.
Values that are no codes of int8 (biases) keep the incumbent's where they are within a grain, a step being a 127th of the largest of their
tensor. Left to others: how coarse a grain what ships can afford (`export`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

GRAINS = (32.0, 24.0, 16.0, 12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.0)
"""Steps of int8, coarsest first."""
DEAD_ZONE = 0.6
"""Of a grain: what is nearer than that to the incumbent's code does not move."""
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


def round_toward(model: Any, *, floats: Tensors, incumbent: Tensors, grain: float) -> Rounded:
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
        new = _rounded(name, onnx.numpy_helper.to_array(tensor), old, floats=floats, incumbent=incumbent, axis=axes.get(name), grain=grain)
        if new.dtype == np.int8 and name.endswith(_CODES):
            kept, codes = kept + int((new == old).sum()), codes + new.size
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, name))
    return Rounded(model=rounded, codes_kept=kept / codes if codes else 1.0)


def _rounded(
    name: str, new: NDArray[Any], old: NDArray[Any], *, floats: Tensors, incumbent: Tensors, axis: int | None, grain: float
) -> NDArray[Any]:
    if name.endswith((_SCALE, _ZERO)):
        return old
    source = name.removesuffix(_CODES)
    if not name.endswith(_CODES) or source not in floats:
        return _kept_or(new.astype(old.dtype), old, np.abs(new.astype(np.float64) - old), grain)
    scale = _either(incumbent, source + _SCALE, name + _SCALE)
    zero = _either(incumbent, source + _ZERO, name + _ZERO)
    shape = [-1 if place == axis else 1 for place in range(new.ndim)] if scale.size > 1 else []
    steps = floats[source].astype(np.float64) / scale.reshape(shape) + zero.reshape(shape)
    if new.dtype != np.int8:  # a bias: its codes are far finer than a step
        return _kept_or(np.rint(steps).astype(new.dtype), old, np.abs(steps - old), grain)
    least = -128 if zero.any() else -127
    moved = np.clip(old + grain * np.rint((steps - old) / grain), least, 127)
    return np.where(np.abs(steps - old) <= (DEAD_ZONE * grain if grain > 1 else 0.5), old, moved).astype(np.int8)


def _kept_or(new: NDArray[Any], old: NDArray[Any], moved: NDArray[Any], grain: float) -> NDArray[Any]:
    step = np.abs(new.astype(np.float64)).max(initial=0.0) / 127
    return np.where(moved <= grain * step, old, new).astype(new.dtype)


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
