"""What a student sees, for losses that hold it against what the teacher sees: the input of its `head`, projected into the teacher's space.

The projection is a linear layer beside the student: trained and kept in checkpoints with it, never exported. Its first weights depend on
the seed alone.

Shapes: B batch, S values before the student's head, D of the teacher's embedding.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import StudentError


class HintImpossibleError(StudentError):
    """A hint loss where teacher or student have nothing to compare."""

    def __init__(self, name: str, found: str, expected: str, next_command: str) -> None:
        super().__init__(name, found, expected, next_command)
        self.name, self.found, self.expected, self.next_command = name, found, expected, next_command

    def __str__(self) -> str:
        return f"student {self.name}: loss hint: {self.found}; expected {self.expected}; {self.next_command}"


class Hint(nn.Module):
    """Watches one student. After each of its forward passes `projected` gives what it saw."""

    def __init__(self, name: str, student: nn.Module, *, values: int, seed: int) -> None:
        """`values` is D. Raises HintImpossibleError for a student without a linear `head`."""
        super().__init__()
        head = getattr(student, "head", None)
        if not isinstance(head, nn.Linear):
            found, expected = f"`head` is {type(head).__name__}", "a student whose last layer is `head`, a torch.nn.Linear"
            raise HintImpossibleError(name, found, expected, "name it so, or leave the loss out")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Linear(head.in_features, values)
        self._seen: Tensor | None = None
        head.register_forward_pre_hook(self._see)

    def projected(self) -> Tensor:
        """float32 [B, D] of the last forward pass."""
        assert self._seen is not None
        projected_BD: Tensor = self.projection(self._seen.float())
        return projected_BD

    def _see(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._seen = given[0]
