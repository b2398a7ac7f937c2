"""The file that ships, in the runtime that devices use: one thread, batches of one unless asked.

A graph is `graph.onnx` with `weights.bin` beside it, or anybody's ONNX file: of that only the input is known when it loads, so each answer
is looked at. Shapes: B rows of a batch, N samples, K classes, F the width.
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
    """A graph that onnxruntime does not load or run, or that is not a student."""

    def __init__(self, path: str, found: str, expected: str, next_step: str = "export the student again") -> None:
        super().__init__(path, found, expected, next_step)
        self.path, self.found, self.expected, self.next_step = path, found, expected, next_step

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected {self.expected}; {self.next_step}"


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
        self._read_input(self._session.get_inputs(), path, kind)

    def _read_input(self, inputs: Sequence[Any], path: Path, kind: InputKind) -> None:
        wanted = "tensor(uint8)" if kind == "text" else "tensor(float)"
        if len(inputs) != 1 or inputs[0].type != wanted or len(inputs[0].shape) != 2 or not isinstance(inputs[0].shape[1], int):
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise GraphInvalidError(
                str(path),
                f"inputs {found}",
                f"one {wanted} of shape [batch, width]",
                f"export it to read {kind} and prepare it inside",
            )
        rows = inputs[0].shape[0]
        if isinstance(rows, int) and rows != 1:
            raise GraphInvalidError(
                str(path),
                f"an input of exactly {rows} rows",
                "one of any number of rows, or of 1",
                "export it with a dynamic batch axis",
            )
        self.path, self.kind, self.name, self.width = path, kind, str(inputs[0].name), int(inputs[0].shape[1])
        self._rows_at_once = ROWS_AT_ONCE if rows != 1 else 1

    def logits(self, inputs: Sequence[Any]) -> NDArray[np.float32]:
        """Logits [N, K] of raw inputs, text or numbers. Raises GraphInvalidError."""
        chunks = [
            self.run(encode(inputs[start : start + self._rows_at_once], kind=self.kind, width=self.width))
            for start in range(0, len(inputs), self._rows_at_once)
        ]
        return np.concatenate(chunks)

    def answer(self, sample: Any) -> NDArray[np.float32]:
        """Logits [1, K] of one raw input, as a device asks. Raises GraphInvalidError."""
        return self.run(encode([sample], kind=self.kind, width=self.width))

    def run(self, encoded_BF: NDArray[Any]) -> NDArray[np.float32]:
        """Logits [B, K] of encoded inputs. Raises GraphInvalidError."""
        try:
            found = self._session.run(None, {self.name: encoded_BF})[0]
        except Exception as error:  # onnxruntime's errors share no base class
            failed = f"fails on {len(encoded_BF)} rows ({type(error).__name__} {' '.join(str(error).split())})"[:300]
            raise GraphInvalidError(
                str(self.path), failed, "a graph that runs on any number of rows", "export it with a dynamic batch axis"
            ) from error
        shape = getattr(found, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != len(encoded_BF) or found.dtype.kind != "f":
            said = f"a {type(found).__name__}" if shape is None else f"{found.dtype} of shape {list(shape)}"
            outputs = ", ".join(output.name for output in self._session.get_outputs())
            raise GraphInvalidError(
                str(self.path),
                f"its first output (of {outputs}) gives {said} for {len(encoded_BF)} rows",
                "logits, floats of shape [rows, classes]",
                "export it so that logits are its first output",
            )
        return np.asarray(found, dtype=np.float32)
