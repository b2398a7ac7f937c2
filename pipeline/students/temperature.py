"""The temperature that makes a file's probabilities honest, fitted on samples that neither taught nor judge it.

On hard labels where there are enough of them, else on what the teacher says. Left to others: which samples (`fit` of a validation split).

Shapes: N samples, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.distill.metrics import fit_temperature, one_hot
from pipeline.students.answering import checked_finite
from pipeline.students.samples import Samples


@dataclass(frozen=True, kw_only=True)
class Fitted:
    temperature: float
    basis: str
    """What it was fitted to, for a person."""


def fitted_temperature(name: str, logits_NK: NDArray[np.float32], fit: Samples) -> Fitted:
    """Of these answers to `fit`; 1 where there is nothing to fit it to. Raises AnswersNotFiniteError."""
    checked_finite(name, logits_NK, fit.ids)
    rows = fit.rows_to_count_on
    if len(rows):
        fitted = fit_temperature(logits_NK[rows], one_hot(fit.hard_N[rows], logits_NK.shape[1]))
        return Fitted(temperature=fitted, basis=f"hard labels of {len(rows)} samples of fit")
    if fit.teacher_NK is None:
        return Fitted(temperature=1.0, basis="nothing: too few hard labels in fit, and no teacher was asked")
    return Fitted(
        temperature=fit_temperature(logits_NK, np.exp(fit.teacher_NK)), basis=f"the teacher's answers to {len(fit)} samples of fit"
    )
