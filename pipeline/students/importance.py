"""How much the answers of a student depend on each trained value: what rounding it may cost.

The diagonal of the Fisher information of its answers: moving value w by e moves them by about F_w e^2 / 2 nats (KL from before).
Expected over the classes that the student itself finds likely, so no labels are read. Left to others: what to do with it (`rounding`).

Shapes: B batch, K classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.inputs import encode
from pipeline.students.drawing import drawn
from pipeline.students.models import Student
from pipeline.students.samples import Samples

ROWS = 128
CLASSES = 3
"""Likeliest of a sample; what is left over of its probability is ignored."""


def fisher_diagonal(student: Student, samples: Samples) -> dict[str, NDArray[np.float64]]:
    """Of each parameter of the module, by name, in nats: the mean over a draw of the samples of sum_k p_k (d log p_k / d w)^2."""
    module = student.module.eval()
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
    rows = drawn(samples, ROWS).inputs if parameters else ()
    for row in rows:
        inputs = torch.from_numpy(encode([row], kind=student.kind, width=student.width))
        log_probs_K = module(inputs).float().log_softmax(1)[0]
        for place in log_probs_K.argsort(descending=True)[:CLASSES]:
            grads = torch.autograd.grad(log_probs_K[place], list(parameters.values()), retain_graph=True, allow_unused=True)
            for total, grad in zip(sums.values(), grads, strict=True):
                if grad is not None:
                    total += log_probs_K[place].detach().exp() * grad**2
    return {name: (total / len(rows)).double().numpy() for name, total in sums.items()}


def by_tensor(student: Student, importance: Mapping[str, NDArray[np.float64]], tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The same of a graph's tensors, by their names: a tensor is the parameter that has its values, as they are or transposed."""
    found = {}
    for name, parameter in student.module.named_parameters():
        if name not in importance:
            continue
        values = parameter.detach().numpy()
        for tensor, held in tensors.items():
            if held.shape == values.shape and np.array_equal(held, values):
                found[tensor] = importance[name]
            elif held.shape == values.T.shape and np.array_equal(held, values.T):
                found[tensor] = importance[name].T
    return found
