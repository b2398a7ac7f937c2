"""Students of sound, pictures and tables: each learns what only its kind can see, and says the same as an int8 file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from pipeline.distill.metrics import accuracy
from pipeline.students.control import train_in_memory
from pipeline.students.export import export_student
from pipeline.students.graph import Graph
from pipeline.students.models import StudentBuildError, build_student
from pipeline.students.models.columns import Columns
from pipeline.students.models.waveform import mel_bands
from pipeline.students.samples import Samples
from tests.kit.students import spec


@dataclass(frozen=True)
class Task:
    """Two classes that a student of this kind can tell apart, and a linear one over the same numbers can't."""

    use: str
    options: dict[str, Any]
    steps: int

    def samples(self, rows: int, *, seed: int) -> Samples:
        chance = np.random.default_rng(seed)
        truth = chance.integers(0, 2, rows)
        values = {"waveform": tones, "pixels": bars, "columns": table}[self.use](truth, chance)
        said = np.log(np.where(np.eye(2)[truth] > 0, 0.95, 0.05)).astype(np.float32)
        inputs = tuple(tuple(map(float, row)) for row in values)
        return Samples(ids=tuple(f"{seed}:{row}" for row in range(rows)), inputs=inputs, hard_N=truth.astype(np.int64), teacher_NK=said)


def tones(truth: NDArray[Any], chance: np.random.Generator) -> NDArray[np.float64]:
    """A low or a high tone of any phase and loudness, somewhere in noise."""
    at = np.arange(2048) / 8000
    hz, phase, loud = (
        np.where(truth, 1500, 600)[:, None],
        chance.uniform(0, 6.3, (len(truth), 1)),
        chance.uniform(0.1, 0.8, (len(truth), 1)),
    )
    begins = chance.integers(0, 1024, (len(truth), 1))
    there = (np.arange(2048) >= begins) & (np.arange(2048) < begins + 1024)
    return np.asarray(there * loud * np.sin(2 * np.pi * hz * at + phase) + chance.normal(0, 0.02, (len(truth), 2048)))


def bars(truth: NDArray[Any], chance: np.random.Generator) -> NDArray[np.float64]:
    """A row or a column of a picture of 8 x 8 is lit."""
    pictures = chance.uniform(0, 0.3, (len(truth), 8, 8))
    for picture, upright, place in zip(pictures, truth, chance.integers(0, 8, len(truth)), strict=True):
        picture[(slice(None), place) if upright else (place, slice(None))] += 0.7
    return pictures.reshape(len(truth), 64)


def table(truth: NDArray[Any], chance: np.random.Generator) -> NDArray[np.float64]:
    """One of ten codes, of which odd ones turn round what the sign of a number says."""
    codes, size = chance.integers(100, 110, len(truth)), chance.uniform(0.5, 50, len(truth))
    return np.stack([np.where((truth + codes) % 2, size, -size), codes, chance.normal(size=len(truth))], axis=1)


TASKS = [
    Task("waveform", {"samples": 2048, "rate_hz": 8000, "frame": 256, "mels": 16, "filters": 4}, 150),
    Task("pixels", {"height": 8, "width": 8, "filters": 4, "layers": 2}, 150),
    Task("columns", {"columns": 3, "categories": [1], "buckets": 64, "width": 16}, 300),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.use)
def test_a_student_of_its_kind_learns_and_ships_as_int8_that_says_the_same(task: Task, tmp_path: Path) -> None:
    made = spec(kind="floats", use=task.use, options=task.options, steps=task.steps, batch=32, learning_rate=0.02)
    student = train_in_memory(made, task.samples(600, seed=1))
    fit, choose, test = (task.samples(100, seed=seed) for seed in (2, 3, 4))
    exported = export_student(name="zoo", student=student, fit=fit, choose=choose, out=tmp_path, budget=0.02)
    assert (exported.quantisation, exported.reason) == ("int8", "")
    assert exported.parity.agreement > 0.97
    assert accuracy(Graph(exported.graph, kind="floats").logits(test.inputs), test.hard_N) > 0.95


def test_a_spectrum_is_not_rounded_to_eight_bits(tmp_path: Path) -> None:
    task = TASKS[0]
    student = build_student(spec(kind="floats", use=task.use, options=task.options))
    samples = task.samples(40, seed=1)
    exported = export_student(name="zoo", student=student, fit=samples, choose=samples, out=tmp_path, budget=1.0)
    model = onnx.load(str(exported.graph))
    rounded = {node.output[0] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    (bands,) = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert not rounded.intersection(bands.input)
    assert any(rounded.intersection(node.input) for node in model.graph.node if node.op_type == "Conv")


def test_a_tone_lies_in_the_band_of_its_frequency() -> None:
    bands_NM = mel_bands(rate_hz=16_000, frame=512, mels=40)
    centres_hz = bands_NM.argmax(axis=0) * 16_000 / 512
    assert (np.diff(centres_hz) >= 0).all()
    for hz in (500, 1000, 4000):
        spectrum = np.abs(np.fft.rfft(np.hanning(512) * np.sin(2 * np.pi * hz * np.arange(512) / 16_000))) ** 2
        assert abs(centres_hz[(spectrum @ bands_NM).argmax()] - hz) < 0.15 * hz


def test_a_code_that_training_never_saw_and_the_largest_ones_have_an_answer() -> None:
    module = Columns(classes=2, columns=2, categories=[1])
    assert torch.isfinite(module(torch.tensor([[1.0, -5.0], [-1e30, 2.0**24], [0.0, 0.0]]))).all()


@pytest.mark.parametrize(
    ("use", "options", "says"),
    [
        ("waveform", {"frame": 400}, "frame = 400 must be a power of 2"),
        ("waveform", {"samples": 1000}, "samples = 1000 must be a multiple of half a frame, 256"),
        ("pixels", {"height": 3, "width": 8}, "4 layers halve a picture 2 times; 3 x 8 has room for fewer"),
        ("columns", {"columns": 2, "categories": [2]}, r"categories = \[2\]: places of 0 to 1, each once"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_what_would(use: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(StudentBuildError, match=says):
        build_student(spec(kind="floats", use=use, options=options))
