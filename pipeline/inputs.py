"""What a student eats: text as bytes, numbers as float32. Pure numpy, so that a device encodes exactly as the trainer did.

Text becomes UTF-8, cut or zero-padded to a fixed width; nothing is lower-cased, split or looked up, so whatever the student
knows about words is inside its graph. A cut may fall inside a character: the student sees its first bytes. Byte 0 means "no
byte here", so a NUL inside a text reads as a gap. Always holds: one input encodes to the same row alone or in a batch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

InputKind = Literal["text", "floats"]


class InputShapeError(DataError):
    """An input that does not have the student's shape: a row of another length, or no number where one is needed."""

    def __init__(self, row: int, found: str, expected: str) -> None:
        super().__init__(row, found, expected)
        self.row, self.found, self.expected = row, found, expected

    def __str__(self) -> str:
        return f"input {self.row}: {self.found}; expected {self.expected}; the student's options and the source must agree on it"


def encode(inputs: Sequence[Any], *, kind: InputKind, width: int) -> NDArray[Any]:
    """Inputs as one array: uint8 [B, width] for text, float32 [B, width] for floats. Raises InputShapeError."""
    return text_to_bytes(inputs, max_bytes=width) if kind == "text" else floats_to_array(inputs, features=width)


def text_to_bytes(texts: Sequence[str], *, max_bytes: int) -> NDArray[np.uint8]:
    """UTF-8 bytes, uint8 [B, max_bytes], cut or zero-padded. A lone surrogate becomes `?`."""
    bytes_BL = np.zeros((len(texts), max_bytes), dtype=np.uint8)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputShapeError(row, type(text).__name__, "text")
        data = text[:max_bytes].encode("utf-8", "replace")[:max_bytes]
        bytes_BL[row, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    return bytes_BL


def as_read(value: Any, *, kind: InputKind, width: int) -> Any:
    """A text without what lies beyond the student's width; numbers as they are. A character that the width would cut is left out."""
    if kind != "text" or not isinstance(value, str):
        return value
    return value[:width].encode("utf-8", "replace")[:width].decode("utf-8", "ignore")


def floats_to_array(rows: Sequence[Any], *, features: int) -> NDArray[np.float32]:
    """Numbers, float32 [B, features]. Raises InputShapeError for a row of another length or with a value that is not finite."""
    array_BF = np.zeros((len(rows), features), dtype=np.float32)
    for row, values in enumerate(rows):
        try:
            vector_F = np.asarray(values, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputShapeError(row, f"{error}"[:120], f"{features} numbers") from error
        if vector_F.shape != (features,):
            raise InputShapeError(row, f"shape {vector_F.shape}", f"{features} numbers")
        if not np.isfinite(vector_F).all():
            raise InputShapeError(row, "a value that is not finite", f"{features} finite numbers")
        array_BF[row] = vector_F
    return array_BF
