"""docs/labels.md: its verbs are there, its code runs as it stands, and what it quotes is what the program says."""

import json
import re
import runpy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.sources import SourceSpec
from tests.kit.crews import LocalCrew
from workers.cli import app
from workers.commands.labels import app as labels_app
from workers.labelling import Demand, Labelling

PAGE = (Path(__file__).parents[2] / "docs" / "labels.md").read_text()

TEACHER = """
import numpy as np
class Sum:
    classes = ["low", "high"]
    fingerprint = "sum"
    def log_probs(self, inputs):
        total = np.stack(inputs.to_numpy(zero_copy_only=False)).sum(axis=1)
        return np.stack([-np.logaddexp(0, 4 * total), -np.logaddexp(0, -4 * total)], axis=1).astype(np.float32)
def load():
    return Sum()
"""


def test_it_shows_every_verb_and_no_other() -> None:
    shown = set(re.findall(r"\$ kdpipe labels (\w+)", PAGE))
    assert shown == {command.name for command in labels_app.registered_commands}


def test_every_option_it_names_is_there() -> None:
    for verb, words in [*re.findall(r"kdpipe labels (\w+)([^`\n]*)", PAGE), ("show", "--sample --row --class --least-sure --json")]:
        help_text = CliRunner().invoke(app, ["labels", verb, "--help"], env={"COLUMNS": "200"}).output
        for option in re.findall(r"--[\w-]+", words):
            assert option in help_text, (verb, option)


def test_every_file_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / target).exists(), target


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "labels_page_teacher.py").write_text(TEACHER)
    chance = np.random.default_rng(1)
    rows = [json.dumps({"x": chance.normal(size=4).tolist()}) for _ in range(600)]
    (tmp_path / "samples.jsonl").write_text("\n".join(rows))
    labelling = Labelling(
        store_url=str(tmp_path / "labels"),
        source=SourceSpec(section=SourceSection(path="samples.jsonl", input="x", kind="floats"), base=tmp_path),
        teacher=TeacherSection(use="labels_page_teacher:load"),
        classes=("low", "high"),
        base=tmp_path,
        section=LabellingSection(unit_rows=100, window_rows=200),
        seed=1,
        generation=1,
        holder="the test",
        open_crew=LocalCrew,
    )
    labelling.plan()
    labelling.run(demand=Demand, progress=lambda now: None, stop=threading.Event())
    return tmp_path / "labels"


def test_its_loop_learns_from_the_labels(store: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n# my_loop.py\n(.*?)```", PAGE, re.S)
    (tmp_path / "my_loop.py").write_text(code)
    train = runpy.run_path(str(tmp_path / "my_loop.py"))["train"]
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 2)
    cursor = train(str(store), model, torch.optim.Adam(model.parameters(), lr=0.05), epochs=4)
    assert cursor.epoch == 4
    inputs = torch.randn(200, 4)
    assert (model(inputs).argmax(dim=1) == (inputs.sum(dim=1) > 0)).float().mean() > 0.95
