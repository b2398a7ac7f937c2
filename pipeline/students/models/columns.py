"""A small net over the columns of a table: numbers, and categories by an embedding of their hash, inside the graph.

    numbers    -> sign(x) log(1 + |x|) -> linear scale and shift of each column
    categories -> hash of (column, code) into one table of `buckets` embeddings
    both       -> hidden layers -> linear

A category comes as a whole number (its code) up to 2^24 in size, which float32 holds exactly; a code that training never saw has a
bucket, too. Two codes may share one: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".

Shapes: B batch, F columns, N numbers, C categories, E embedding, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRIME, STEP = 1_000_003, 7_919


class Columns(nn.Module):
    """Logits [B, K] from float32 [B, columns]; `categories` are the places of the columns that hold codes."""

    def __init__(
        self,
        *,
        classes: int,
        columns: int,
        categories: Sequence[int] = (),
        buckets: int = 1024,
        embedding: int = 4,
        width: int = 32,
        layers: int = 2,
    ) -> None:
        super().__init__()
        wrong = [place for place in categories if not 0 <= place < columns]
        if wrong or len(set(categories)) != len(categories):
            raise ValueError(f"categories = {list(categories)}: places of 0 to {columns - 1}, each once")
        self.features, self.buckets = columns, buckets
        numbers = [place for place in range(columns) if place not in set(categories)]
        self.register_buffer("numbers_N", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self.register_buffer("categories_C", torch.tensor(list(categories), dtype=torch.int64), persistent=False)
        self.scale_N, self.shift_N = nn.Parameter(torch.ones(len(numbers))), nn.Parameter(torch.zeros(len(numbers)))
        self.embedding = nn.Embedding(buckets, embedding) if categories else None
        sizes = [len(numbers) + embedding * len(categories), *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x_BF: Tensor) -> Tensor:
        numbers_BN = x_BF.index_select(1, self.numbers_N)  # type: ignore[arg-type]
        x = torch.sign(numbers_BN) * torch.log1p(torch.abs(numbers_BN)) * self.scale_N + self.shift_N
        if self.embedding is not None:
            codes_BC = x_BF.index_select(1, self.categories_C).to(torch.int64)  # type: ignore[arg-type]
            hashed_BC = torch.remainder(codes_BC * PRIME + self.categories_C * STEP, self.buckets)  # type: ignore[operator]
            x = torch.cat([x, self.embedding(hashed_BC).flatten(1)], dim=1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.head(x)  # type: ignore[no-any-return]
