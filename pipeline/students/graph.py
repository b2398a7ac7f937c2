"""The file that ships, in the runtime that devices use: one thread, batches of one unless asked.

A graph is `graph.onnx` with `weights.bin` beside it. Shapes: N samples, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.errors import StudentError
from pipeline.inputs import InputKind, encode

ROWS_AT_ONCE = 64


class GraphInvalidError(StudentError):
    """An exported graph that onnxruntime does not load or that is not a student."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(path, found, expected)
        self.path, self.found, self.expected = path, found, expected

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected {self.expected}; export the student again"


class Graph:
    """An open session. Raises GraphInvalidError."""

    def __init__(self, path: Path, *, kind: InputKind) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class
            raise GraphInvalidError(str(path), f"{type(error).__name__} {error}"[:200], "a graph that onnxruntime loads") from error
        inputs = self._session.get_inputs()
        wanted = "tensor(uint8)" if kind == "text" else "tensor(float)"
        if len(inputs) != 1 or inputs[0].type != wanted or len(inputs[0].shape) != 2 or not isinstance(inputs[0].shape[1], int):
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise GraphInvalidError(str(path), f"inputs {found}", f"one {wanted} of shape [batch, width]")
        self.path, self.kind, self.name, self.width = path, kind, str(inputs[0].name), int(inputs[0].shape[1])

    def logits(self, inputs: Sequence[Any]) -> NDArray[np.float32]:
        """Logits [N, K] of raw inputs, text or numbers."""
        chunks = [
            self.run(encode(inputs[start : start + ROWS_AT_ONCE], kind=self.kind, width=self.width))
            for start in range(0, len(inputs), ROWS_AT_ONCE)
        ]
        return np.concatenate(chunks)

    def answer(self, sample: Any) -> NDArray[np.float32]:
        """Logits [1, K] of one raw input, as a device asks."""
        return self.run(encode([sample], kind=self.kind, width=self.width))

    def run(self, encoded: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of encoded inputs."""
        return np.asarray(self._session.run(None, {self.name: encoded})[0], dtype=np.float32)
