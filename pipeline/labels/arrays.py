"""Arrays for rows that are read, in memory of Arrow's allocator.

That one keeps for a while what it is given back. malloc may return an array of a megabyte to the system each time, which clears its pages
anew: depending on what else the process held, taking and decoding rows was seen to last three times as long.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def unfilled(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """As `np.empty`."""
    kind = np.dtype(dtype)
    return np.ndarray(tuple(shape), kind, buffer=pa.allocate_buffer(kind.itemsize * int(np.prod(shape))))


def rows_taken(rows: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    """Rows at places that are known to be there, copied."""
    taken = unfilled((len(places), *rows.shape[1:]), rows.dtype)
    return rows.take(places, axis=0, out=taken, mode="clip")  # which numpy need not check in a copy, as it does by default
