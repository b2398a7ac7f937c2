"""The embeddings that one teacher gives: there, of one width, and numbers that half precision can hold. Where they are wanted."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.embedding import GREATEST, embedding_width
from pipeline.teachers.teacher import TeacherOutputError
from workers.labelling.faults import EmbeddingUnusableError

if TYPE_CHECKING:
    from pipeline.labels.shard import Copied


class Embeddings:
    """Checks what comes, and remembers its width from the first on. N rows, D numbers."""

    def __init__(self, teacher: str) -> None:
        """`teacher` is its fingerprint."""
        self._teacher = teacher
        self._width: int | None = None

    def checked(self, embedding_ND: NDArray[np.float32] | None) -> NDArray[np.float16]:
        """In half precision. Raises EmbeddingUnusableError, and TeacherOutputError for numbers that a single row is to blame for."""
        if embedding_ND is None:
            raise EmbeddingUnusableError(self._teacher, "no embedding", "one with each answer")
        self.same(embedding_ND.shape[1])
        if not (abs(embedding_ND) <= GREATEST).all():
            greatest = f"an embedding with {abs(embedding_ND).max():.4g}"
            raise TeacherOutputError(self._teacher, greatest, f"numbers within {GREATEST:g}, which half precision can hold")
        return embedding_ND.astype(np.float16)

    def same(self, width: int) -> int:
        """The width. Raises EmbeddingUnusableError if it is another than before, or 0."""
        if not width or self._width not in (None, width):
            raise EmbeddingUnusableError(self._teacher, f"an embedding of {width} numbers", f"{self._width or 'some'}, as for other rows")
        self._width = width
        return width

    def beside(self, copied: "Copied | None", asked_ND: NDArray[np.float16] | None, rows: int) -> NDArray[np.float16] | None:
        """Embeddings of N rows: those asked for, or zeros, if every label is copied; None where no row has one."""
        width = None if copied is None else embedding_width(copied.columns.schema)
        if width is not None:
            self.same(width)
        if asked_ND is not None or width is None:
            return asked_ND
        return np.zeros((rows, width), dtype=np.float16)
