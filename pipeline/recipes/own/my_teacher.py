"""Your teacher. Put your model into `load`: it is called once in every teacher actor, with [teacher.options] of run.toml."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Keywords:
    """Counts words that spam likes; stands in for a big model."""

    words: tuple[str, ...]
    classes: tuple[str, ...] = ("ham", "spam")

    def log_probs(self, inputs: pa.Array) -> np.ndarray:
        """Natural log-probabilities: one row for each text, one column for each class."""
        found = np.array([sum(text.lower().count(word) for word in self.words) for text in inputs.to_pylist()], dtype=np.float32)
        return np.stack([-np.logaddexp(0, 2 * found - 1), -np.logaddexp(0, 1 - 2 * found)], axis=1)


def load(words: list[str]) -> Keywords:
    return Keywords(words=tuple(words))
