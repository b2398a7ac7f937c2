"""A multilayer perceptron over numbers. Scaling them is the source's business, or the first layer's.

Shapes: B batch, F features, K classes.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """Logits [B, K] from float32 [B, features]."""

    def __init__(self, *, classes: int, features: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.features = features
        sizes = [features, *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x_BF: Tensor) -> Tensor:
        for layer in self.hidden:
            x_BF = F.relu(layer(x_BF))
        return self.head(x_BF)  # type: ignore[no-any-return]
