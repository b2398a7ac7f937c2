"""A folder of images as a source: rows, bad files, growth, and that sorting by class does not hurt a live pass."""

import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_digits

from pipeline.config import SourceSection
from pipeline.errors import ConfigError
from pipeline.labels.history import History
from pipeline.labels.intervals import Intervals
from pipeline.labels.ledger import Ledger
from pipeline.labels.order import permutation
from pipeline.labels.planning import source_change
from pipeline.labels.rowspace import part_rows, planned, units_left
from pipeline.labels.state import LogState
from pipeline.sources import GrowingSource, Source, open_source
from pipeline.sources import images as images_module
from pipeline.sources.source import PartChangedError, SourceMissingError


def write(folder: Path, name: str, pixels: np.ndarray, *, at: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
    os.utime(path, ns=(at, at))


def source_of(base: Path, **options: object) -> Source:
    return open_source(SourceSection(path="images", use="images", kind="floats", options={"size": [2, 3]} | options), base=base)


def rows_of(source: Source) -> list[dict[str, Any]]:
    (part,) = source.parts()
    return list(source.read(part.identity, range(part.rows)).to_pylist())


def test_an_image_is_a_row_of_numbers_with_its_folders_name_as_label(tmp_path):
    grey = np.array([[0, 51, 102], [153, 204, 255]])
    write(tmp_path / "images", "cat/one.png", grey, at=1)
    write(tmp_path / "images", "dog/two.png", np.stack([grey, 0 * grey, 255 - grey], axis=2), at=2)
    rows = rows_of(source_of(tmp_path))
    np.testing.assert_allclose(rows[0]["input"], [0, 0.2, 0.4, 0.6, 0.8, 1], atol=1e-6)
    assert [row["label"] for row in rows] == ["cat", "dog"]
    colour = rows_of(source_of(tmp_path, mode="RGB"))[1]["input"]
    np.testing.assert_allclose(colour, [0, 0.2, 0.4, 0.6, 0.8, 1, *[0] * 6, 1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_an_image_that_is_none_or_too_large_is_a_bad_row(tmp_path, monkeypatch):
    write(tmp_path / "images", "cat/good.png", np.zeros((2, 3)), at=1)
    write(tmp_path / "images", "cat/large.png", np.zeros((50, 50)), at=2)
    (tmp_path / "images" / "cat" / "broken.png").write_bytes(b"\x89PNG no more")
    monkeypatch.setattr(images_module, "MAX_PIXELS", 100)
    problems = [row["problem"] for row in rows_of(source_of(tmp_path))]
    assert problems[0] is None
    assert problems[1] == "50 x 50 pixels; expected at most 100"
    assert str(problems[2]).startswith("not an image")


def test_images_that_are_added_come_behind_and_the_old_part_can_still_be_read(tmp_path):
    for number in range(4):
        write(tmp_path / "images", f"cat/{number}.png", np.full((2, 3), number), at=number)
    (before,) = source_of(tmp_path).parts()
    write(tmp_path / "images", "ant/new.png", np.full((2, 3), 9), at=10)
    source = source_of(tmp_path)
    (now,) = source.parts()
    assert isinstance(source, GrowingSource)
    assert source.grown_from(before.identity) == now.identity
    old = planned([(before.identity, before.name, before.rows)], known=[], unit_rows=2)

    change = source_change(
        LogState(plans=History(old)),
        [(now.identity, now.name, now.rows)],
        unit_rows=2,
        generation=1,
        grown={before.identity: now.identity},
    )
    assert [(plan.first, plan.rows, plan.offset) for plan in change.new] == [(4, 1, 4)]
    assert source.read(before.identity, [3]).column("input")[0].as_py()[0] == pytest.approx(3 / 255)


def test_an_image_that_was_replaced_makes_another_part(tmp_path):
    write(tmp_path / "images", "cat/1.png", np.zeros((2, 3)), at=1)
    write(tmp_path / "images", "cat/2.png", np.zeros((2, 3)), at=2)
    (before,) = source_of(tmp_path).parts()
    write(tmp_path / "images", "cat/1.png", np.ones((2, 3)), at=3)
    with pytest.raises(PartChangedError):
        source_of(tmp_path).read(before.identity, [0])


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"options": {}}, "options.size"),
        ({"options": {"size": [0, 3]}}, "options.size"),
        ({"options": {"size": [2, 3], "mode": "CMYK"}}, "options.mode"),
        ({"options": {"size": [2, 3], "colour": True}}, "'colour'"),
        ({"kind": "text"}, "kind of a source of images"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, section, problem):
    (tmp_path / "images").mkdir()
    given = {"path": "images", "use": "images", "kind": "floats", "options": {"size": [2, 3]}} | section
    with pytest.raises(ConfigError, match=problem):
        open_source(SourceSection.model_validate(given), base=tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceMissingError, match="images"):
        source_of(tmp_path)


def live_order(rows: int, *, seed: int) -> np.ndarray:
    """Rows of a part of so many as a live pass sees them: leased units, windows of 1, 2, 4 ... units, each permuted."""
    (plan,) = planned([("p", "p", rows)], known=[], unit_rows=32)
    ledger = Ledger(units_left([plan], Intervals(), unit_rows=32), seed=seed, lease_s=1)
    units = []
    while lease := ledger.lease("w", now_s=0):
        units.append(np.array(part_rows(plan, np.arange(lease.unit.start, lease.unit.stop))))
        ledger.settle(lease.number)
    order, window, start = [], 0, 0
    while start < len(units):
        held = np.concatenate(units[start : start + 2**window])
        order.append(held[permutation(len(held), seed, 0, window)])
        start, window = start + 2**window, window + 1
    return np.concatenate(order)


def accuracy(inputs: np.ndarray, labels: np.ndarray, order: np.ndarray, held_out: tuple[np.ndarray, np.ndarray], seed: int) -> float:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for start in range(0, len(order), 16):
        batch = order[start : start + 16]
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(inputs[batch])), torch.from_numpy(labels[batch]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        return float((model(torch.from_numpy(held_out[0])).argmax(1).numpy() == held_out[1]).mean())


def test_images_sorted_by_class_teach_a_live_pass_what_shuffled_ones_do(tmp_path):
    digits = load_digits()
    held_out = (digits.data[:500].astype(np.float32) / 16, digits.target[:500])
    pixels, labels = digits.images[500:] * 15.9, digits.target[500:]
    by_class = np.argsort(labels, kind="stable")
    for place, number in enumerate(by_class):
        write(tmp_path / "images", f"{labels[number]}/{number}.png", pixels[number], at=place)
    source = open_source(SourceSection(path="images", use="images", kind="floats", options={"size": [8, 8]}), base=tmp_path)
    (part,) = source.parts()
    batch = source.read(part.identity, range(part.rows))
    inputs = np.array(batch.column("input").to_pylist(), dtype=np.float32)
    names = np.array(batch.column("label").to_pylist(), dtype=np.int64)
    assert (np.diff(names) >= 0).all(), "the folder is sorted by class"
    gaps: list[float] = []
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(len(inputs))
        order = live_order(len(inputs), seed=seed)
        assert sorted(order) == list(range(len(inputs)))
        mixed, live = (accuracy(inputs, names, rows, held_out=held_out, seed=seed) for rows in (shuffled[order], order))
        gaps.append(mixed - live)
    assert statistics.median(gaps) < 0.01, gaps
