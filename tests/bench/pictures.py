"""Small pictures to learn from, and their splits: scikit-learn's digits (8 x 8) and Fashion-MNIST (28 x 28, a Debian package).

A split draws its parts from all pictures by one seed: `labelled` for the teacher and the honest control, `stream` without labels, `fit` and
`choose` of the validation, `test` that chooses nothing.
"""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pipeline.distill.losses import NO_LABEL
from pipeline.students.samples import Samples

CLASSES = tuple("0123456789")
FASHION = Path("/usr/share/datasets/fashion-mnist")
PARTS = ("labelled", "stream", "fit", "choose", "test")
Sizes = tuple[int, int, int, int, int]
"""Pictures of each part, in the order of PARTS."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """N grey pictures with their classes."""

    name: str
    side: int
    pixels_NF: NDArray[np.float32]
    """0 to 1, row by row; F = side * side."""
    hard_N: NDArray[np.int64]


def digits() -> Pictures:
    found = load_digits()
    pixels_NF = (found.data / 16).astype(np.float32)
    return Pictures(name="digits", side=8, pixels_NF=pixels_NF, hard_N=found.target.astype(np.int64))


def fashion_mnist() -> Pictures:
    """All 70,000; which were its authors' test set plays no part."""
    if not FASHION.is_dir():
        raise SystemExit(f"no {FASHION}; expected Fashion-MNIST; `apt-get install dataset-fashion-mnist` brings it")
    bodies = {
        what: [gzip.decompress((FASHION / f"{part}-{what}-ubyte.gz").read_bytes()) for part in ("train", "t10k")]
        for what in ("images-idx3", "labels-idx1")
    }
    pixels = np.concatenate([np.frombuffer(body, np.uint8, offset=16).reshape(-1, 784) for body in bodies["images-idx3"]])
    hard = np.concatenate([np.frombuffer(body, np.uint8, offset=8) for body in bodies["labels-idx1"]])
    return Pictures(name="fashion", side=28, pixels_NF=pixels.astype(np.float32) / np.float32(255), hard_N=hard.astype(np.int64))


DATA: Mapping[str, Callable[[], Pictures]] = {"digits": digits, "fashion": fashion_mnist}


def halved(pictures: Pictures) -> Pictures:
    """Every four pixels as their mean: half as high, half as wide."""
    half = pictures.side // 2
    means_NF = pictures.pixels_NF.reshape(-1, half, 2, half, 2).mean(axis=(2, 4)).reshape(-1, half * half)
    pixels_NF = np.asarray(means_NF, dtype=np.float32)
    return Pictures(name=pictures.name, side=half, pixels_NF=pixels_NF, hard_N=pictures.hard_N)


def split(pictures: Pictures, sizes: Sizes, *, seed: int) -> dict[str, Samples]:
    """The parts by name, disjoint. The stream keeps its labels, for those who may look at them."""
    if sum(sizes) > len(pictures.hard_N):
        raise ValueError(f"parts of {sizes}, and there are {len(pictures.hard_N)} pictures")
    order = np.random.default_rng(seed).permutation(len(pictures.hard_N))
    edges = np.cumsum((0, *sizes))
    return {part: _samples(pictures, order[first:stop]) for part, first, stop in zip(PARTS, edges, edges[1:], strict=False)}


def unlabelled(samples: Samples) -> Samples:
    return Samples(
        ids=samples.ids, inputs=samples.inputs, hard_N=np.full(len(samples), NO_LABEL, dtype=np.int64), teacher_NK=samples.teacher_NK
    )


def pixels_of(samples: Samples) -> NDArray[np.float32]:
    return np.stack(samples.inputs)


def _samples(pictures: Pictures, rows: NDArray[np.int64]) -> Samples:
    return Samples(
        ids=tuple(f"{pictures.name}-{row}" for row in rows), inputs=tuple(pictures.pixels_NF[rows]), hard_N=pictures.hard_N[rows]
    )
