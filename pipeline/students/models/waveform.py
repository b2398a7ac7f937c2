"""A small net over raw audio: windows, spectrum and mel scale are inside the graph, so that a device in any language feeds it samples.

    samples -> Hann windows, half overlapping -> DFT -> power -> mel bands -> log, less its mean over time
            -> 3x3 convolutions, each halving time and bands -> mean -> linear

Mel scale of O'Shaughnessy 1987 (2595 log10(1 + f / 700)), triangular bands of equal height. The front end has no trained value and stays
in floats in the file that ships (`float_parts`): eight bits are too few for a spectrum. Its windows are two halves of the samples side by
side, so that no table of places is in the graph, and a power of 2 long, which the runtime transforms fastest.

Shapes: B batch, S samples, T frames, F samples of one and H of half of one, N frequencies, M mel bands, K classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

FLOOR = 1e-6


class LogMel(nn.Module):
    """Log-mel energies [B, T, M] of float32 [B, S], each band less its mean over time: a channel's colour and loudness are not speech."""

    def __init__(self, *, rate_hz: int, frame: int, mels: int) -> None:
        super().__init__()
        self.hop = frame // 2
        self.register_buffer("window_F", torch.hann_window(frame), persistent=False)
        self.register_buffer("bands_NM", torch.from_numpy(mel_bands(rate_hz=rate_hz, frame=frame, mels=mels)), persistent=False)

    def forward(self, x_BS: Tensor) -> Tensor:
        halves_BTH = x_BS.reshape(x_BS.shape[0], -1, self.hop)
        frames_BTF = torch.cat([halves_BTH[:, :-1], halves_BTH[:, 1:]], dim=2) * self.window_F  # type: ignore[operator]
        power_BTN = torch.view_as_real(torch.fft.rfft(frames_BTF, dim=2)).square().sum(dim=3)
        log_BTM = torch.log(torch.matmul(power_BTN, self.bands_NM) + FLOOR)  # type: ignore[arg-type]
        return log_BTM - log_BTM.mean(dim=1, keepdim=True)


class Waveform(nn.Module):
    """Logits [B, K] from float32 [B, samples]: mono audio of -1 to 1 at `rate_hz`."""

    float_parts = ("front",)

    def __init__(
        self,
        *,
        classes: int,
        samples: int = 16_384,
        rate_hz: int = 16_000,
        frame: int = 512,
        mels: int = 40,
        filters: int = 16,
    ) -> None:
        super().__init__()
        if frame < 16 or frame & (frame - 1):
            raise ValueError(f"frame = {frame} must be a power of 2, of 16 or more")
        if samples % (frame // 2) or samples < 4 * frame:
            raise ValueError(f"samples = {samples} must be a multiple of half a frame, {frame // 2}, and four frames or more")
        self.features = samples
        self.front = LogMel(rate_hz=rate_hz, frame=frame, mels=mels)
        self.first = nn.Conv2d(1, filters, 3, stride=2, padding=1)
        self.second = nn.Conv2d(filters, filters, 3, stride=2, padding=1)
        self.third = nn.Conv2d(filters, 2 * filters, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * filters, classes)

    def forward(self, x_BS: Tensor) -> Tensor:
        x = self.front(x_BS)[:, None] / 4  # of an order of 1
        for layer in (self.first, self.second, self.third):
            x = F.relu(layer(x))
        return self.head(torch.mean(x, dim=(2, 3)))  # type: ignore[no-any-return]


def mel_bands(*, rate_hz: int, frame: int, mels: int) -> NDArray[np.float32]:
    """Triangles [N, M] over the frequencies of a real DFT, their corners equally far apart in mel from 0 to half the rate."""
    top_mel = 2595 * np.log10(1 + rate_hz / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top_mel, mels + 2) / 2595) - 1)
    at_hz = np.arange(frame // 2 + 1)[:, None] * rate_hz / frame
    rise_NM = (at_hz - corners_hz[:-2]) / (corners_hz[1:-1] - corners_hz[:-2])
    fall_NM = (corners_hz[2:] - at_hz) / (corners_hz[2:] - corners_hz[1:-1])
    return np.maximum(0, np.minimum(rise_NM, fall_NM)).astype(np.float32)
