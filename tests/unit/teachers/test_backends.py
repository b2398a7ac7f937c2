"""`kdpipe teachers bench`: one teacher in several backends, and how far the labels are apart."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.teachers.backends import label_error
from workers.cli import app

NET = """
import torch

def load():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))

def words(inputs):
    return [[0.5, 0.3, 0.2] for _ in inputs]
"""
RUN = """
name = "bench"
classes = ["a", "b", "c"]
[stream]
path = "samples.jsonl"
input = "x"
kind = "floats"
[validation]
path = "samples.jsonl"
input = "x"
kind = "floats"
[teacher]
use = "net_USE:USE"
[students.small]
use = "mlp"
[fleet.populations.phones]
student = "small"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = np.random.default_rng(1).normal(size=(64, 8)).round(4)
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps({"x": row.tolist()}) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(folder: Path, use: str) -> None:
    """Each with a module of its own name: the folders of earlier tests are still on the import path."""
    (folder / f"net_{use}.py").write_text(NET)
    (folder / "run.toml").write_text(RUN.replace("USE", use))


def test_a_torch_module_is_timed_in_every_backend_and_its_labels_compared(folder: Path) -> None:
    write_run(folder, "load")
    done = CliRunner().invoke(app, ["teachers", "bench", "run.toml", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    rows = {row["backend"]: row for row in found["backends"]}
    assert set(rows) == {"eager", "compile", "onnx fp32", "onnx int8"}
    assert rows["eager"]["kl_mean_nats"] == 0
    assert rows["onnx fp32"]["kl_mean_nats"] < 1e-9
    assert 0 < rows["onnx int8"]["kl_mean_nats"] < 0.05
    assert rows["compile"]["rows_per_s"] or "fails" in rows["compile"]["problem"], "there may be no C++ compiler"
    assert found["fastest"] in rows
    assert (folder / "teacher-backends" / "teacher-int8.onnx").is_file()


def test_a_teacher_that_is_no_torch_module_is_timed_as_it_is(folder: Path) -> None:
    write_run(folder, "words")
    done = CliRunner().invoke(app, ["teachers", "bench", "run.toml"])
    assert done.exit_code == 0, done.output
    assert "as it is" in done.stdout
    assert "only a teacher that is a torch module can be run otherwise" in done.stdout


def test_the_error_of_labels_is_none_against_themselves_and_counts_classes_that_are_ruled_out() -> None:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[1, 0], [0.5, 0.5]], dtype=np.float32))
    assert label_error(log_probs, log_probs).kl_mean_nats == 0
    turned = label_error(log_probs[::-1], log_probs)
    assert turned.agreement == 1
    assert turned.kl_mean_nats == np.inf
