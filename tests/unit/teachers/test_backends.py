"""`kdpipe teachers bench`: one teacher in several backends, and how far the labels are apart."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipeline.config import TeacherSection
from pipeline.teachers import load_teacher
from pipeline.teachers.backends import label_error
from pipeline.teachers.teacher import answer_of
from tests.kit.text_models import write_bert
from workers.cli import app

NET = """
import torch

def load():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))

def beside():
    return load()

def words(inputs):
    return [[0.5, 0.3, 0.2] for _ in inputs]

class Moody(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 3)

    def forward(self, rows_BF):
        return self.layer(rows_BF) if rows_BF.sum() > 0 else self.layer(-rows_BF)  # no exporter can follow this

def moody():
    return Moody()
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


def bench(*arguments: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Backend -> its row, and the fastest."""
    done = CliRunner().invoke(app, ["teachers", "bench", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    return {row["backend"]: row for row in found["backends"]}, found["fastest"]


def section_with(section: dict[str, Any], how: str) -> TeacherSection:
    """What the run file's teacher is after somebody wrote into it what the table says."""
    changed = tomllib.loads(how.replace(", teacher.", "\nteacher."))["teacher"]
    return TeacherSection.model_validate(section | changed)


def assert_measured_or_without_compiler(row: dict[str, Any]) -> None:
    assert row["rows_per_s"] or "fails" in row["problem"], "there may be no C++ compiler"


def test_an_exported_program_is_timed_in_every_backend_with_its_own_classes_and_outputs(folder: Path) -> None:
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3), torch.nn.Softmax(dim=1)).eval()
    example = (torch.randn(8, 8),)
    torch.export.save(torch.export.export(net, example, dynamic_shapes=({0: torch.export.Dim("batch")},)), folder / "net.pt2")
    section = {"use": "torch_export", "path": "net.pt2", "options": {"trusted": True, "gives": "probs", "classes": ["c", "a", "b"]}}
    options = 'options = { trusted = true, gives = "probs", classes = ["c", "a", "b"] }'
    (folder / "run.toml").write_text(RUN.replace('use = "net_USE:USE"', f'use = "torch_export"\npath = "net.pt2"\n{options}'))
    rows, _ = bench("run.toml")
    assert set(rows) == {"eager", "compile", "onnx fp32", "onnx int8"}
    assert rows["eager"]["how"] == "as it is"
    assert_measured_or_without_compiler(rows["compile"])
    assert rows["onnx fp32"]["kl_mean_nats"] < 1e-6
    assert rows["onnx fp32"]["agreement"] == 1
    assert 0 < rows["onnx int8"]["kl_mean_nats"] < 0.05
    inputs = pa.array(list(np.ones((2, 8), dtype=np.float32)), pa.list_(pa.float32()))
    answers = [
        load_teacher(teacher, classes=("a", "b", "c"), base=folder).log_probs(inputs)
        for teacher in (TeacherSection.model_validate(section), section_with(section, rows["onnx fp32"]["how"]))
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_a_module_that_no_exporter_follows_is_still_compiled(folder: Path) -> None:
    write_run(folder, "moody")
    rows, _ = bench("run.toml")
    assert set(rows) == {"eager", "compile", "onnx"}
    assert_measured_or_without_compiler(rows["compile"])
    assert "no export to ONNX" in rows["onnx"]["problem"]


def test_the_file_is_named_as_the_run_file_would_name_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    write_run(folder, "beside")
    rows, _ = bench("../run.toml", "--out", "made")
    assert rows["onnx int8"]["how"] == 'teacher.use = "onnx", teacher.path = "elsewhere/made/teacher-int8.onnx"'


@pytest.mark.parametrize("head", [True, False])
def test_a_transformers_model_is_exported_without_its_tokenizer(folder: Path, head: bool) -> None:
    write_bert(folder / "bert", classes=("a", "b", "c"))
    save_file({"weight": torch.randn(3, 16), "bias": torch.randn(3)}, folder / "head.safetensors")
    texts = [" ".join(["free", "money", "news", "see"][: 1 + row % 4] * (1 + row % 3)) for row in range(40)]
    (folder / "samples.jsonl").write_text("".join(json.dumps({"x": text}) + "\n" for text in texts))
    options = {"head": "head.safetensors", "pooling": "cls"} if head else {}
    inner = ", ".join(f'{name} = "{value}"' for name, value in options.items())
    section = f'use = "transformers"\npath = "bert"\noptions = {{ {inner} }}'
    (folder / "run.toml").write_text(RUN.replace('use = "net_USE:USE"', section).replace("floats", "text"))
    rows, fastest = bench("run.toml", "--tolerance", "0.5")
    assert set(rows) == {"eager", "compile", "onnx fp32", "onnx int8"}
    assert_measured_or_without_compiler(rows["compile"])
    assert rows["eager"]["kl_mean_nats"] == 0
    assert rows["onnx fp32"]["kl_mean_nats"] < 1e-6
    assert rows["onnx int8"]["kl_mean_nats"] < 0.5
    assert rows["compile"]["how"] == 'teacher.backend = "compile"'
    assert fastest in rows
    given = {"use": "transformers", "path": "bert", "options": options}
    teachers = [
        load_teacher(one, classes=("a", "b", "c"), base=folder)
        for one in (TeacherSection.model_validate(given), section_with(given, rows["onnx fp32"]["how"]))
    ]
    answers = [answer_of(teacher, pa.array(["money", "see the news of tomorrow", "a free agenda"])) for teacher in teachers]
    np.testing.assert_allclose(answers[0].log_probs_BK, answers[1].log_probs_BK, atol=1e-4)
    assert (answers[0].embedding_BD is not None) == (answers[1].embedding_BD is not None) == head
    assert teachers[0].fingerprint != teachers[1].fingerprint


def test_a_torch_module_is_timed_in_every_backend_and_its_labels_compared(folder: Path) -> None:
    write_run(folder, "load")
    rows, fastest = bench("run.toml")
    assert set(rows) == {"eager", "compile", "onnx fp32", "onnx int8"}
    assert rows["eager"]["kl_mean_nats"] == 0
    assert rows["onnx fp32"]["kl_mean_nats"] < 1e-9
    assert 0 < rows["onnx int8"]["kl_mean_nats"] < 0.05
    assert_measured_or_without_compiler(rows["compile"])
    assert fastest in rows
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
