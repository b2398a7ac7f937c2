"""A folder of images that is labelled: what comes, changes and goes meanwhile, and that sorting by class does not hurt a live pass."""

import statistics
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.labels.log import LogReader
from pipeline.labels.reader import EndOfEpoch, LabelBatch, LabelReader
from pipeline.labels.store import LocalStore
from pipeline.sources import SourceSpec
from tests.kit.crews import LocalCrew
from workers.labelling import Demand, Labelling, LabellingOutcome
from workers.labelling.faults import PartVanishedError

TEACHER = """
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

digits = load_digits()
model = LogisticRegression(max_iter=300).fit(digits.data[:500] / 16, digits.target[:500])

def probabilities(inputs):
    return model.predict_proba(inputs)
"""
CLASSES = tuple("0123456789")
BATCH = 16
HELD_OUT = 500
"""Digits that the teacher was fitted on; the student is judged on them and sees none of them."""


def write(folder: Path, name: str, pixels: NDArray[np.float64]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray((pixels * 15.9).astype(np.uint8)).save(path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A teacher, and the first ten images of a folder."""
    (tmp_path / f"{tmp_path.name}.py").write_text(TEACHER)
    digits = load_digits()
    for number in range(10):
        write(tmp_path / "images", f"{digits.target[number]}/{number}.png", digits.images[number])
    return tmp_path


def labelling_of(base: Path, generation: int = 1, *, seed: int = 1, unit_rows: int = 4) -> Labelling:
    return Labelling(
        store_url=str(base / f"labels-{seed}"),
        source=SourceSpec(
            section=SourceSection(path="images", use="images", kind="floats", options={"size": [8, 8]}, label="label"), base=base
        ),
        teacher=TeacherSection(use=f"{base.name}:probabilities", batch_rows=64),
        classes=CLASSES,
        base=base,
        section=LabellingSection(unit_rows=unit_rows, window_rows=16 * unit_rows, unit_rows_max=unit_rows, reuse=False, canary_rows=0),
        seed=seed,
        generation=generation,
        holder="the test",
        open_crew=LocalCrew,
    )


def run(labelling: Labelling) -> LabellingOutcome:
    return labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())


def test_of_a_labelled_folder_only_what_was_added_is_asked(base: Path) -> None:
    first = labelling_of(base)
    first.plan()
    assert run(first).teacher_calls == 10
    digits = load_digits()
    (base / "images" / "3" / "3.png").unlink()
    write(base / "images", "0/aaa.png", digits.images[20])
    write(base / "images", "5/5.png", digits.images[21])
    second = labelling_of(base, 2)
    assert second.plan().rows_new == 2
    outcome = run(second)
    assert (outcome.ended, outcome.teacher_calls, outcome.rows_committed, outcome.rows_quarantined) == (True, 2, 12, 0)


def test_images_that_changed_or_went_before_they_were_labelled_are_set_aside_alone(base: Path) -> None:
    labelling = labelling_of(base)
    labelling.plan()
    (base / "images" / "3" / "3.png").unlink()
    write(base / "images", "5/5.png", load_digits().images[20])
    outcome = run(labelling)
    assert (outcome.ended, outcome.teacher_calls, outcome.rows_committed, outcome.rows_quarantined) == (True, 8, 8, 2)
    reasons = {bad.reason for bad in LogReader(LocalStore(base / "labels-1")).refresh().quarantined}
    assert reasons == {"an image that is gone since it was planned", "5/5.png: changed since it was planned"}
    assert labelling_of(base, 2).plan().rows_new == 1


def test_a_folder_that_is_empty_before_it_was_labelled_is_an_error_that_says_what_is_gone(base: Path) -> None:
    labelling = labelling_of(base)
    labelling.plan()
    (base / "images").rename(base / "unmounted")
    (base / "images").mkdir()
    for again in (labelling, labelling_of(base)):
        with pytest.raises(PartVanishedError, match=r"^\d/\d.png and 9 more \(10 rows\): gone or changed, with planned rows"):
            again.plan()


def test_what_a_preview_showed_is_what_is_planned_though_another_image_comes_to_rest_between(base: Path) -> None:
    labelling = labelling_of(base)
    labelling.preview()
    write(base / "images", "0/new.png", load_digits().images[20])
    assert labelling.preview().rows_new == 10, "it may still be written"
    summary = labelling.plan()
    assert (summary.rows_new, summary.parts_new) == (10, 1)
    run(labelling)
    assert labelling_of(base, 2).plan().rows_new == 1


def live_pass(labels: Path, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str | None]]:
    """Inputs, log-probabilities and names of classes as a student sees them in its live pass."""
    reader = LabelReader(LocalStore(labels), generation=1, batch=BATCH, seed=seed)
    cursor, batches = reader.start(), list[LabelBatch]()
    while not isinstance(got := reader.read(cursor), EndOfEpoch):
        assert isinstance(got, LabelBatch)
        batches.append(got)
        cursor = got.cursor_after
    inputs = np.concatenate([np.array(batch.inputs.to_pylist(), dtype=np.float32) for batch in batches])
    return inputs, np.concatenate([batch.log_probs_BK for batch in batches]), [name for batch in batches for name in batch.hard_label]


def accuracy(inputs_NF: NDArray[np.float32], log_probs_NK: NDArray[np.float32], order: Sequence[int], seed: int) -> float:
    """Of a student that learned from the soft labels in that order, on digits it has not seen."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs, probs = torch.from_numpy(inputs_NF), torch.from_numpy(np.exp(log_probs_NK))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        loss = torch.nn.functional.cross_entropy(model(inputs[batch]), probs[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    digits = load_digits()
    held_out = torch.from_numpy((digits.images[:HELD_OUT] * 15.9).astype(np.uint8).reshape(-1, 64).astype(np.float32) / 255)
    with torch.inference_mode():
        return float((model(held_out).argmax(1).numpy() == digits.target[:HELD_OUT]).mean())


def test_images_sorted_by_class_teach_a_live_pass_what_shuffled_ones_do(base: Path) -> None:
    digits = load_digits()
    for number in range(HELD_OUT, len(digits.images)):
        write(base / "images", f"{digits.target[number]}/{number}.png", digits.images[number])
    gaps: list[float] = []
    for seed in range(1, 6):
        labelling = labelling_of(base, seed=seed, unit_rows=32)
        labelling.plan()
        assert run(labelling).ended
        inputs_NF, log_probs_NK, names = live_pass(base / f"labels-{seed}", seed)
        assert len(inputs_NF) == len(digits.images) - HELD_OUT + 10
        assert set(names) == set(CLASSES)
        shuffled = np.random.default_rng(seed).permutation(len(inputs_NF)).tolist()
        mixed, live = (accuracy(inputs_NF, log_probs_NK, order, seed) for order in (shuffled, range(len(inputs_NF))))
        gaps.append(mixed - live)
    by_class = sorted(range(len(names)), key=lambda place: str(names[place]))
    assert accuracy(inputs_NF, log_probs_NK, by_class, seed) < mixed - 0.05, "order matters to this student"
    assert statistics.median(gaps) < 0.01, gaps
