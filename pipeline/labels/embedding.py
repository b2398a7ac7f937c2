"""Embeddings beside labels: what the teacher sees in an input, as half-precision numbers of one width D.

A shard has the column or has not. What is read of several shards has NaN for the rows of those without, and widths are never mixed.

N rows, D numbers.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import LabelStoreError

EMBEDDING = "embedding"
"""Name of the column."""
GREATEST = float(np.finfo(np.float16).max)
"""Magnitude of a number that can be kept."""


class MixedEmbeddingsError(LabelStoreError):
    """Labels that are read together have embeddings of different widths."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__(widths)
        self.widths = widths

    def __str__(self) -> str:
        return (
            f"embeddings of {' and '.join(map(str, self.widths))} numbers; expected one width; "
            "use another --dir, or throw the labels away with `kdpipe clean DIR --labels`"
        )


def embedding_column(embedding_ND: NDArray[np.float16]) -> pa.Array:
    """As a shard stores them."""
    return pa.FixedSizeListArray.from_arrays(pa.array(embedding_ND.reshape(-1), pa.float16()), embedding_ND.shape[1])


def embedding_width(schema: pa.Schema) -> int | None:
    """D of a shard, or of its label columns; None if it has no embeddings."""
    return int(schema.field(EMBEDDING).type.list_size) if EMBEDDING in schema.names else None


def embeddings_of(table: pa.Table) -> NDArray[np.float16] | None:
    """float16 [N, D] of rows of one shard; None if it has no embeddings."""
    width = embedding_width(table.schema)
    if width is None:
        return None
    return np.asarray(table[EMBEDDING].combine_chunks().flatten().to_numpy(zero_copy_only=False)).reshape(-1, width)


def joined_embeddings(parts: Sequence[tuple[NDArray[np.float16] | None, int]]) -> NDArray[np.float16] | None:
    """Of (embeddings or None, rows), one after the other; None if no part has any. Raises MixedEmbeddingsError."""
    width = one_width(None if part is None else part.shape[1] for part, _ in parts)
    if width is None:
        return None
    return np.concatenate([np.full((rows, width), np.nan, dtype=np.float16) if part is None else part for part, rows in parts])


def one_width(widths: Iterable[int | None]) -> int | None:
    """The width that all have who have one. Raises MixedEmbeddingsError."""
    found = sorted({width for width in widths if width is not None})
    if len(found) > 1:
        raise MixedEmbeddingsError(tuple(found))
    return found[0] if found else None
