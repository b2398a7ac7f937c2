"""A small convolutional net over UTF-8 bytes: no tokenizer, no vocabulary, no BatchNorm.

    bytes -> embedding -> windowed linear + ReLU (one or two) -> max and mean over the text -> linear

One layer is a bank of detectors of short byte strings, pooled: the best of what was tried on e-mail. A second layer (`width2`) sees
combinations of them.

A convolution whose window is a whole number of strides is a matrix product over neighbouring blocks; written so, it trains faster
on one core than `Conv1d` with its transposes, and quantises per channel like any other matrix. The step from stride to stride
loses sub-stride alignment, so training shifts each text by up to `jitter_bytes` (the loop does, keyed by position).

Shapes: B batch, L bytes, N blocks, E embedding, W width, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowedLinear(nn.Module):
    """A 1-D convolution over [B, L, C] with a window of `blocks` * `stride`, zero-padded at the end; then ReLU."""

    def __init__(self, channels: int, width: int, *, stride: int, blocks: int) -> None:
        super().__init__()
        self.stride, self.blocks = stride, blocks
        self.linear = nn.Linear(channels * stride * blocks, width)

    def forward(self, x_BLC: Tensor) -> Tensor:
        rows, length, channels = x_BLC.shape
        blocks = length // self.stride
        x_BNC = x_BLC.reshape(rows, blocks, self.stride * channels)
        if self.blocks > 1:
            padded = F.pad(x_BNC, (0, 0, 0, self.blocks - 1))
            x_BNC = torch.cat([padded[:, i : i + blocks] for i in range(self.blocks)], dim=2)
        return F.relu(self.linear(x_BNC))


class ByteConv(nn.Module):
    """Logits [B, K] from uint8 [B, max_bytes], zero-padded UTF-8."""

    def __init__(
        self,
        *,
        classes: int,
        max_bytes: int = 1024,
        embedding: int = 8,
        width: int = 64,
        stride: int = 2,
        blocks: int = 3,
        width2: int = 0,
        stride2: int = 2,
        blocks2: int = 2,
        jitter_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.step = stride * stride2 if width2 else stride
        if max_bytes % self.step:
            raise ValueError(f"max_bytes = {max_bytes} must be a multiple of the stride, {self.step}")
        self.max_bytes = max_bytes
        self.jitter_bytes = self.step if jitter_bytes is None else jitter_bytes
        self.embedding = nn.Embedding(256, embedding, padding_idx=0)
        self.first = WindowedLinear(embedding, width, stride=stride, blocks=blocks)
        self.second = WindowedLinear(width, width2, stride=stride2, blocks=blocks2) if width2 else None
        self.head = nn.Linear(2 * (width2 or width), classes)
        with torch.no_grad():
            self.embedding.weight.mul_(0.5)

    def forward(self, bytes_BL: Tensor) -> Tensor:
        x_BNW = self.first(self.embedding(bytes_BL.int()))
        if self.second is not None:
            x_BNW = self.second(x_BNW)
        rows = bytes_BL.shape[0]
        there_BN1 = (bytes_BL.reshape(rows, -1, self.step).int().amax(dim=2, keepdim=True) > 0).to(x_BNW.dtype)
        x_BNW = x_BNW * there_BN1
        mean_BW = x_BNW.sum(dim=1) / there_BN1.sum(dim=1).clamp(min=1)
        return self.head(torch.cat([x_BNW.amax(dim=1), mean_BW], dim=1))  # type: ignore[no-any-return]
