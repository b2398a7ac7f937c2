"""From what a caller sends to what the graph eats (`pipeline.inputs`), and from its logits to probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import inputs as shared
from pipeline.releases.manifest import InputSpec

# B batch, K classes.

Input = str | Sequence[float]


def encode(spec: InputSpec, inputs: Sequence[Input]) -> NDArray[Any]:
    """One array as the trainer made them. Raises pipeline.inputs.InputShapeError."""
    return shared.encode(inputs, kind=spec.kind, width=spec.width)


def softmax(logits_BK: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """softmax(logits / temperature), row by row, without overflow."""
    scaled_BK = logits_BK / np.float32(temperature)
    scaled_BK -= scaled_BK.max(axis=1, keepdims=True)
    np.exp(scaled_BK, out=scaled_BK)
    scaled_BK /= scaled_BK.sum(axis=1, keepdims=True)
    return scaled_BK
