"""Inputs as a model wants them: a list of text, or one float32 matrix."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import TeacherError


class RaggedInputsError(TeacherError):
    """Rows of different length where the model wants a matrix."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        super().__init__(lengths)
        self.lengths = lengths

    def __str__(self) -> str:
        return f"inputs of {', '.join(map(str, self.lengths))} numbers in one batch; expected one length; look at the source's column"


def to_list_or_matrix(inputs: Any) -> Any:
    """A list of B texts for a string array, float32 [B, F] for a list array. Raises RaggedInputsError."""
    if pa.types.is_string(inputs.type) or pa.types.is_large_string(inputs.type):
        return inputs.to_pylist()
    flat = inputs.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if len(inputs) == 0:
        return flat.reshape(0, 0)
    if pa.types.is_fixed_size_list(inputs.type):
        return flat.reshape(len(inputs), -1)
    lengths = np.unique(np.diff(inputs.offsets.to_numpy()))
    if len(lengths) != 1:
        raise RaggedInputsError(tuple(int(length) for length in lengths))
    return flat.reshape(len(inputs), int(lengths[0]))
