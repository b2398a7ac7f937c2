"""Rounding a student's int8 codes toward its incumbent's, so that few of them change and a delta is small.

    code = the incumbent's + n grains,   n = argmin  importance * (code - trained value)^2 + price * bits(n)

A uniform quantiser of the differences whose dead zone is decided value by value, as video codecs do: what matters little to the answers
(`importance`) stays where it was, and the fewer values the differences take, the fewer bytes they need. One price, in nats a bit, buys the
same everywhere: each tensor's grain follows from it. Price 0 is rounding to the nearest code.

Scales and zero points stay the incumbent's: frozen from generation to generation, so that a weight that did not move keeps its code.
Weights that are quantised without an incumbent get scales with room to grow.
Biases move in powers of two of their fine steps. Left to others: what price what ships can afford (`export`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

PRIOR = 0.02
"""Of a tensor's mean importance, what each of its values has at least: the samples that importance was measured on are few."""
BITS_KEPT, BITS_MOVED = 0.5, 4.0
"""What a code costs in a delta that is the incumbent's, and one that is a grain away; each doubling costs one more."""
GRAIN_SQUARED = 12 / np.log(2)
"""A grain g costs importance * g^2 / 12 and spares log2(g) bits: where the price is the slope, importance * g^2 is this times the price."""
HEADROOM = 1.25
"""What the scales of weights hold, of the largest weight."""
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


def round_toward(model: Any, *, floats: Tensors, incumbent: Tensors, importance: Tensors, price: float) -> Rounded:
    """`model` is the new student, quantised; `floats` are its values before that; `incumbent` has the same tensors, from one graph.

    `importance` is of the floats, as `fisher_diagonal` says; a tensor without has the mean of the others, for a 127th of its largest value.
    """
    rounding = _Rounding(model, floats, incumbent, importance, price)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    kept = codes = 0
    for tensor in rounded.graph.initializer:
        name = str(tensor.name)
        if name not in incumbent:
            continue
        new, old = rounding.rounded(name, onnx.numpy_helper.to_array(tensor)), incumbent[name]
        if new.dtype == np.int8 and name.endswith(_CODES):
            kept, codes = kept + int((new == old).sum()), codes + new.size
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, name))
    return Rounded(model=rounded, codes_kept=kept / codes if codes else 1.0)


def with_headroom(model: Any, *, floats: Tensors) -> Any:
    """The same values in scales that are `HEADROOM` as wide; activations, which are measured, keep theirs."""
    tensors = trained_tensors(model)
    of_values = {name for name in tensors if name.endswith(_SCALE) and name.removesuffix(_SCALE).removesuffix(_CODES) in floats}
    wider = {name: value * np.float32(HEADROOM) if name in of_values else value for name, value in tensors.items()}
    return round_toward(model, floats=floats, incumbent=wider, importance={}, price=0.0).model


class _Rounding:
    """One student against its incumbent at one price."""

    def __init__(self, model: Any, floats: Tensors, incumbent: Tensors, importance: Tensors, price: float) -> None:
        self._floats, self._incumbent, self._importance, self._price = floats, incumbent, importance, price
        self._axes = _axes(model)
        weights = [name for name in incumbent if name.endswith(_CODES) and incumbent[name].dtype == np.int8]
        known = [self._of_step(name, self._scale(name)).mean() for name in weights if name.removesuffix(_CODES) in importance]
        self._otherwise = float(np.mean(known)) if known else 1.0

    def rounded(self, name: str, new: NDArray[Any]) -> NDArray[Any]:
        """What ships in place of the tensor `new`."""
        old = self._incumbent[name]
        if name.endswith((_SCALE, _ZERO)):
            return old
        if not name.endswith(_CODES) or name.removesuffix(_CODES) not in self._floats:
            step = np.asarray(np.abs(old.astype(np.float64)).max(initial=0.0) / 2**15 or 1.0)
            before = old.astype(np.float64) / step
            codes = self._moved(new.astype(np.float64) / step, before, self._of_step(name, step), (-np.inf, np.inf))
            return np.where(codes == before, old, codes * step).astype(old.dtype)
        scale = self._scale(name)
        steps = self._floats[name.removesuffix(_CODES)].astype(np.float64) / scale + self._of(name, _ZERO)
        most = np.iinfo(old.dtype).max
        least = -most - 1 if self._of(name, _ZERO).any() else -most
        return self._moved(steps, old.astype(np.float64), self._of_step(name, scale), (least, most)).astype(old.dtype)

    def _moved(self, value: NDArray[Any], old: NDArray[Any], importance: NDArray[Any], limits: tuple[float, float]) -> NDArray[Any]:
        """Each old code plus the number of grains that costs least."""
        grain, mean = 1.0, float(importance.mean())
        if mean > 0 and self._price > 0:
            grain = max(1.0, float(np.sqrt(GRAIN_SQUARED * self._price / mean)))
            grain = float(np.rint(grain)) if limits[1] < 128 else float(2.0 ** np.rint(np.log2(grain)))
        count = np.rint((value - old) / grain)
        best, least = old, importance * (value - old) ** 2 + self._price * BITS_KEPT
        for grains in (count - np.sign(count), count):
            code = np.clip(old + grain * grains, *limits)
            bits = np.where(grains == 0, BITS_KEPT, BITS_MOVED + np.log2(np.maximum(np.abs(grains), 1)))
            cost = importance * (value - code) ** 2 + self._price * bits
            best, least = np.where(cost < least, code, best), np.minimum(cost, least)
        return best

    def _of_step(self, name: str, scale: NDArray[Any]) -> NDArray[Any]:
        """Nats that a difference of one step costs, squared."""
        found = self._importance.get(name.removesuffix(_CODES))
        if found is None:
            old = np.abs(self._incumbent[name].astype(np.float64)) / (1 if name.endswith(_CODES) else scale)
            return np.full(old.shape, self._otherwise * (127 / max(1.0, old.max(initial=0.0))) ** 2)
        per_step: NDArray[np.float64] = (found + PRIOR * found.mean()) / 2 * scale**2
        return per_step

    def _scale(self, name: str) -> NDArray[Any]:
        return self._of(name, _SCALE).astype(np.float64)

    def _of(self, name: str, what: str) -> NDArray[Any]:
        """Scales or zero points of a tensor of codes, in the shape that they apply in."""
        found = next(self._incumbent[key] for key in (name.removesuffix(_CODES) + what, name + what) if key in self._incumbent)
        shape = [-1 if place == self._axes.get(name) else 1 for place in range(self._incumbent[name].ndim)] if found.size > 1 else []
        return found.reshape(shape)


def _axes(model: Any) -> dict[str, int]:
    """Axis of the channels of each tensor of codes."""
    return {
        str(node.input[0]): int(attribute.i)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for attribute in node.attribute
        if attribute.name == "axis"
    }
