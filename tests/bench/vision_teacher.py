"""Teachers of the vision benchmark, fitted on labelled pictures, and what they tell of one split. Larger and slower than a device's
model.

`ConvTeacher` is a small convolutional net that sees the pictures moved a little, anew each time; what it sees before its last layer is
its embedding. `EdgeTeacher` is a kernel machine over pixels and histograms of the directions of edges (Dalal, Triggs 2005), with
calibrated probabilities. The same pictures and seed give the same teacher.

Shapes: N samples, B batch, F pixels, D embedding, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Tensor, nn

from pipeline.labels.codecs import CLAMP_NATS
from pipeline.students.samples import Samples
from pipeline.students.schedule import learning_rate
from tests.bench.pictures import CLASSES, Pictures, Sizes, pixels_of, split, unlabelled

CELL, DIRECTIONS, BLOCK = 4, 9, 2
PIXELS_COUNT = 0.3
"""Of a pixel, against an entry of a histogram."""
FILTERS, WIDTH, EPOCHS, BATCH, PEAK, DECAY, WARMUP_STEPS = 32, 128, 250, 64, 3e-3, 1e-2, 50
SMOOTHING = 0.05
ROWS_AT_ONCE = 256


class VisionTeacher(Protocol):
    @property
    def size(self) -> int:
        """Trained or remembered numbers."""
        ...

    def told(self, samples: Samples) -> tuple[Samples, NDArray[np.float32] | None]:
        """The samples with its answers, and its embeddings [N, D] if it has some."""
        ...


Fit = Callable[[Pictures, Samples, int], VisionTeacher]
"""From the labelled pictures and a seed."""


class ConvTeacher(nn.Module):
    """Logits [B, K] from float32 [B, F]."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            *_halving(1, FILTERS),
            *_halving(FILTERS, 2 * FILTERS),
            nn.Flatten(),
            nn.Linear(2 * FILTERS * (side // 4) ** 2, WIDTH),
            nn.ReLU(),
        )
        self.head = nn.Linear(WIDTH, len(CLASSES))

    @property
    def size(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, pixels_BF: Tensor) -> Tensor:
        return self.head(F.dropout(self.body(pixels_BF), 0.5, self.training))

    def told(self, samples: Samples) -> tuple[Samples, NDArray[np.float32]]:
        self.eval()
        with torch.no_grad():
            seen_ND = torch.cat([self.body(part_BF) for part_BF in torch.from_numpy(pixels_of(samples)).split(ROWS_AT_ONCE)])
            log_probs_NK = F.log_softmax(self.head(seen_ND), dim=1).clamp(min=CLAMP_NATS)
        return replace(samples, teacher_NK=log_probs_NK.numpy()), seen_ND.numpy()


class EdgeTeacher:
    """A fitted kernel machine."""

    def __init__(self, pictures: Pictures, labelled: Samples) -> None:
        self._side = pictures.side
        machine = CalibratedClassifierCV(SVC(C=5.0, gamma="scale"), ensemble=False, cv=3)
        self._machine = machine.fit(self._features(labelled), labelled.hard_N)

    @property
    def size(self) -> int:
        machine = self._machine.calibrated_classifiers_[0].estimator
        return int(machine.support_vectors_.size + machine.dual_coef_.size)

    def told(self, samples: Samples) -> tuple[Samples, None]:
        starts = range(0, len(samples), ROWS_AT_ONCE)
        parts = [samples.take(range(start, min(start + ROWS_AT_ONCE, len(samples)))) for start in starts]
        probs_NK = np.concatenate([self._machine.predict_proba(self._features(part)) for part in parts])
        return replace(samples, teacher_NK=np.log(np.maximum(probs_NK, np.exp(CLAMP_NATS))).astype(np.float32)), None

    def _features(self, samples: Samples) -> NDArray[np.float32]:
        pixels_NF = pixels_of(samples)
        return np.concatenate([edges(pixels_NF, self._side), PIXELS_COUNT * pixels_NF], axis=1)


def edges(pixels_NF: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Histograms of the directions of edges in cells, by their strength, normalised in overlapping blocks of cells."""
    pictures = pixels_NF.reshape(-1, side, side)
    down, right = np.zeros_like(pictures), np.zeros_like(pictures)
    down[:, 1:-1] = pictures[:, 2:] - pictures[:, :-2]
    right[:, :, 1:-1] = pictures[:, :, 2:] - pictures[:, :, :-2]
    strength, place = np.hypot(right, down), np.arctan2(down, right) % np.pi / np.pi * DIRECTIONS
    below = np.floor(place).astype(int)
    share, cells = place - below, side // CELL
    voted = [
        strength * ((below % DIRECTIONS == direction) * (1 - share) + ((below + 1) % DIRECTIONS == direction) * share)
        for direction in range(DIRECTIONS)
    ]
    histograms = np.stack([votes.reshape(-1, cells, CELL, cells, CELL).sum(axis=(2, 4)) for votes in voted], axis=-1)
    corners, blocks = range(BLOCK), cells - BLOCK + 1
    joined = np.concatenate([histograms[:, y : y + blocks, x : x + blocks] for y in corners for x in corners], axis=-1)
    joined /= np.linalg.norm(joined, axis=-1, keepdims=True) + 0.1
    return np.asarray(joined.reshape(len(pictures), -1), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What the students of one split learn from and are judged by, with the teacher's answers. The stream has no hard labels."""

    parts: Mapping[str, Samples]
    seen_ND: NDArray[np.float32] | None
    """The teacher's embeddings of the stream."""
    teacher_size: int


def lessons_of(pictures: Pictures, sizes: Sizes, fit: Fit, *, seed: int) -> Lessons:
    """One split, told by a teacher that was fitted on its labelled part."""
    parts = split(pictures, sizes, seed=seed)
    teacher = fit(pictures, parts["labelled"], seed)
    told = {name: teacher.told(unlabelled(samples) if name == "stream" else samples) for name, samples in parts.items()}
    return Lessons(parts={name: samples for name, (samples, _) in told.items()}, seen_ND=told["stream"][1], teacher_size=teacher.size)


def edge_teacher(pictures: Pictures, labelled: Samples, seed: int) -> EdgeTeacher:
    return EdgeTeacher(pictures, labelled)


def conv_teacher(pictures: Pictures, labelled: Samples, seed: int) -> ConvTeacher:
    """Each picture is moved by up to an eighth of its side, anew in every epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fitted(ConvTeacher(pictures.side), pictures, labelled, torch.Generator().manual_seed(seed))


def _fitted(net: ConvTeacher, pictures: Pictures, labelled: Samples, chance: torch.Generator) -> ConvTeacher:
    pixels_NF, hard_N = torch.from_numpy(pixels_of(labelled)), torch.from_numpy(labelled.hard_N)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=DECAY)
    steps_an_epoch = -(-len(labelled) // BATCH)
    for step in range(EPOCHS * steps_an_epoch):
        if step % steps_an_epoch == 0:
            batches = torch.randperm(len(labelled), generator=chance).split(BATCH)
        rows_B = batches[step % steps_an_epoch]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps=EPOCHS * steps_an_epoch, warmup_steps=WARMUP_STEPS, peak=PEAK)
        optimiser.zero_grad()
        logits_BK = net(_moved(pixels_NF[rows_B], pictures, chance))
        F.cross_entropy(logits_BK, hard_N[rows_B], label_smoothing=SMOOTHING).backward()
        optimiser.step()
    return net


def _halving(channels: int, filters: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)


def _moved(pixels_BF: Tensor, pictures: Pictures, chance: torch.Generator) -> Tensor:
    side, reach = pictures.side, pictures.side // 8
    padded_BHW = F.pad(pixels_BF.reshape(-1, side, side), (reach,) * 4)
    down_B, right_B = torch.randint(0, 2 * reach + 1, (2, len(pixels_BF)), generator=chance)
    row_BH, column_BW = (torch.arange(side) + by_B[:, None] for by_B in (down_B, right_B))
    which_B11 = torch.arange(len(pixels_BF))[:, None, None]
    return padded_BHW[which_B11, row_BH[:, :, None], column_BW[:, None, :]].reshape(len(pixels_BF), -1)
