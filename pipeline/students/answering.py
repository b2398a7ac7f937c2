"""What a student's module answers: one row of logits for each input, one column for each class, all of them finite.

The module may be anybody's code, so each of these is looked at where the answer comes in.

Shapes: B batch, N samples, K classes.
"""

import inspect
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.references import fault_of
from pipeline.students.faults import AnswersNotFiniteError, LogitsShapeError, StudentRaisedError

SUM_WITHIN = 1e-3
"""How far from 1 probabilities may add up: they may come from half floats."""

MAX_TRACE_LETTERS = 8_000


def logits_of(name: str, module: nn.Module, inputs: Tensor, *, classes: int, where: str) -> Tensor:
    """Logits [B, K]; `where` ends the message of what goes wrong. Raises StudentRaisedError, LogitsShapeError."""
    try:
        logits_BK: Any = module(inputs)
    except Exception as error:
        trace = "".join(traceback.format_exception(error))[-MAX_TRACE_LETTERS:]
        raise StudentRaisedError(name, fault_of(error, base=_home(module)), where, trace) from error
    expected = [len(inputs), classes]
    if not isinstance(logits_BK, Tensor):
        raise LogitsShapeError(name, f"a {type(logits_BK).__name__}", str(expected), where)
    if list(logits_BK.shape) != expected:
        raise LogitsShapeError(name, f"a tensor of shape {list(logits_BK.shape)}", str(expected), where)
    return logits_BK


def _home(module: nn.Module) -> Path:
    """The folder of the file that the module's class is in; that of its user, unless a library made it."""
    try:
        return Path(inspect.getfile(type(module))).parent
    except (TypeError, OSError):  # made by code that has no file
        return Path(os.devnull)


def not_finite(answers_NK: NDArray[Any]) -> NDArray[np.int64]:
    """Which samples have an answer that is not all finite numbers."""
    return np.flatnonzero(~np.isfinite(answers_NK).all(axis=1))


def checked_finite(name: str, answers_NK: NDArray[Any], ids: Sequence[str]) -> NDArray[Any]:
    """The same answers. Raises AnswersNotFiniteError: neither such a module nor such a file has anything to ship."""
    strange = not_finite(answers_NK)
    if len(strange):
        raise AnswersNotFiniteError(name, len(strange), len(ids), ids[strange[0]])
    return answers_NK


def are_probabilities(answers_NK: NDArray[Any]) -> bool:
    """Whether answers that should be logits are a distribution in every row: a softmax would soften them once more."""
    sums_N = answers_NK.sum(axis=1)
    return len(answers_NK) > 0 and bool((answers_NK >= 0).all() and np.allclose(sums_N, 1, atol=SUM_WITHIN))
