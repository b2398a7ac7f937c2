"""What a loss is given: what is known of a batch's samples.

Shapes: B batch, K classes, R classes recorded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a sparse codec kept of B answers: `pipeline.labels.codecs.SparseLabels` as tensors."""

    ids_BR: Tensor
    """int64 classes; a row with fewer than R ends in entries of log-probability -inf."""
    log_probs_BR: Tensor
    """float32, at temperature 1. With the tail each row adds to one."""
    tail_B: Tensor
    """float32, log of the mass of all classes without a record; -inf where there is none."""

    def rows(self, some: slice | Tensor) -> "Recorded":
        return Recorded(ids_BR=self.ids_BR[some], log_probs_BR=self.log_probs_BR[some], tail_B=self.tail_B[some])

    def to(self, device: torch.device) -> "Recorded":
        return Recorded(ids_BR=self.ids_BR.to(device), log_probs_BR=self.log_probs_BR.to(device), tail_B=self.tail_B.to(device))


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is known of B samples."""

    log_probs_BK: Tensor
    """The teacher's natural log-probabilities at temperature 1, float32. Of a sparse codec: with its tail spread evenly."""
    hard_B: Tensor
    """int64 class of the source, NO_LABEL where it has none."""
    recorded: Recorded | None = None
    """None from a codec that keeps every class."""
    embedding_BD: Tensor | None = None
    """What the teacher sees in the samples, float32; NaN in rows without."""
    projected_BD: Tensor | None = None
    """What the student sees in them, brought into the teacher's space."""

    def rows(self, some: slice | Tensor) -> "Lesson":
        """Those of a slice, or of a mask over B."""
        return Lesson(
            log_probs_BK=self.log_probs_BK[some],
            hard_B=self.hard_B[some],
            recorded=self.recorded.rows(some) if self.recorded else None,
            embedding_BD=None if self.embedding_BD is None else self.embedding_BD[some],
            projected_BD=None if self.projected_BD is None else self.projected_BD[some],
        )

    def to(self, device: torch.device) -> "Lesson":
        recorded = self.recorded.to(device) if self.recorded else None
        embedding_BD = None if self.embedding_BD is None else self.embedding_BD.to(device)
        return Lesson(
            log_probs_BK=self.log_probs_BK.to(device), hard_B=self.hard_B.to(device), recorded=recorded, embedding_BD=embedding_BD
        )
