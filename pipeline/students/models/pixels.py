"""A small convolutional net over pixels: no BatchNorm, so that what it learns does not depend on who holds which rows.

    pixels -> 3x3 convolutions, every second one halving the picture -> mean over the picture -> linear

Shapes: B batch, H height, W width, C channels, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pixels(nn.Module):
    """Logits [B, K] from float32 [B, H * W * C]: values of 0 to 1, row by row, the channels of a pixel side by side."""

    def __init__(self, *, classes: int, height: int, width: int, channels: int = 1, filters: int = 16, layers: int = 4) -> None:
        super().__init__()
        if layers < 1 or min(height, width) < 2 ** (layers // 2):
            raise ValueError(f"{layers} layers halve a picture {layers // 2} times; {height} x {width} has room for fewer")
        self.features = height * width * channels
        self.shape = (height, width, channels)
        counts = [channels, *(filters * 2 ** (layer // 2) for layer in range(layers))]
        self.layers = nn.ModuleList(
            nn.Conv2d(counts[layer], counts[layer + 1], 3, stride=1 + layer % 2, padding=1) for layer in range(layers)
        )
        self.head = nn.Linear(counts[-1], classes)

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BCHW = x_BF.reshape(x_BF.shape[0], *self.shape).permute(0, 3, 1, 2) - 0.5
        for layer in self.layers:
            x_BCHW = F.relu(layer(x_BCHW))
        return self.head(torch.mean(x_BCHW, dim=(2, 3)))  # type: ignore[no-any-return]
