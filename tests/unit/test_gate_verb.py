"""`kdpipe gate` judges a file of anybody's, by a run file's validation, teacher and budgets."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from pipeline.errors import FolderBusyError
from pipeline.releases.bundle import build_bundle
from pipeline.releases.manifest import BundleManifest, Golden, InputSpec
from pipeline.students.control import train_in_memory
from pipeline.students.export import export_student
from tests.kit.students import numbers, spec
from workers.cli import app
from workers.driver.folder import Holder, RunFolder, write_json
from workers.driver.records import student_files

RUN = """
name = "numbers"
classes = ["ham", "spam"]
stream = { path = "stream.jsonl", input = "x", kind = "floats" }
validation = { path = "validation.jsonl", input = "x", kind = "floats", label = "label" }
teacher = { use = "sign:load" }
students.small = { use = "mlp", options = { features = 4 } }
gate = { accuracy_min = 0.8 }
fleet.populations.phones.student = "small"
"""
TEACHER = """
import numpy as np

def load(inputs):
    with open(__file__.replace("sign.py", "asked"), "a") as asked:
        asked.write(f"{len(inputs)} ")
    score = 4 * np.asarray(inputs).sum(1)
    return np.stack([1 / (1 + np.exp(score)), 1 / (1 + np.exp(-score))], axis=1)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with its data, a student that learnt and one that did not."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "run.toml").write_text(RUN)
    (folder / "sign.py").write_text(TEACHER)
    samples = numbers(200, seed=2)
    rows = [{"x": list(x), "label": ("ham", "spam")[hard]} for x, hard in zip(samples.inputs, samples.hard_N, strict=True)]
    for name in ("stream", "validation"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, steps in (("good", 200), ("bad", 1)):
        made = spec(kind="floats", use="mlp", options={"features": 4, "width": 8}, steps=steps, learning_rate=0.02 if steps > 1 else 1e-9)
        student = train_in_memory(made, numbers(200, seed=1))
        export_student(name=name, student=student, fit=numbers(60, seed=3), choose=numbers(60, seed=4), out=folder / name)
    return folder


def judged(base: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["gate", *words[:1], str(base / "run.toml"), *words[1:]])


def test_a_file_that_meets_every_budget_may_ship(base: Path) -> None:
    done = judged(base, str(base / "good" / "graph.onnx"), "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["ships"]
    assert report["candidate"]["accuracy"] > 0.9
    assert not (base / "runs").exists(), "judging made no run"


def test_a_file_that_does_not_is_refused_with_the_line_and_by_how_much(base: Path) -> None:
    done = judged(base, str(base / "bad" / "graph.onnx"))
    assert done.exit_code == 6
    assert "below its budget 0.8" in done.stdout
    assert re.search(r"worst slice +0(\.\d+)? +\S+.*: \d+ of \d+ right, 95 % ", done.stdout)


def test_a_file_is_held_against_an_incumbent(base: Path) -> None:
    good, bad = (str(base / name / "graph.onnx") for name in ("good", "bad"))
    assert judged(base, good, "--incumbent", bad).exit_code == 0
    worse = judged(base, bad, "--incumbent", good)
    assert worse.exit_code == 6
    assert "worse than the incumbent" in worse.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run."""
    (tmp_path / "origin.json").write_text("{}")
    return tmp_path


def test_every_look_in_a_runs_folder_is_counted_of_the_same_file_and_of_two_with_one_graph(base: Path, folder: Path) -> None:
    files = [base / name / "graph.onnx" for name in ("good", "good", "bad")]
    assert files[0].read_bytes() == files[2].read_bytes(), "what training changes is beside the graph"
    for use, file in enumerate(files, 1):
        assert f"have now decided {use} time(s) about small" in judged(base, str(file), "--dir", str(folder)).stdout
    looks = [json.loads(line) for line in (folder / "lineage.jsonl").read_text().splitlines()]
    assert [(look["student"], look["passed"]) for look in looks] == [("small", True), ("small", True), ("small", False)]
    assert looks[0]["digest"] == looks[1]["digest"] != looks[2]["digest"]


def test_a_verdict_that_can_not_be_counted_is_not_told(base: Path, folder: Path) -> None:
    with Holder(RunFolder(folder)):
        done = judged(base, str(base / "good" / "graph.onnx"), "--dir", str(folder))
    assert isinstance(done.exception, FolderBusyError)
    assert "ships" not in done.output
    assert not (folder / "lineage.jsonl").exists()


def test_of_several_students_the_one_that_a_look_counts_for_must_be_named(base: Path, folder: Path) -> None:
    two = base / "two.toml"
    two.write_text(RUN + 'students.other = { use = "mlp", options = { features = 4 } }\n')

    def look(*words: str) -> Any:
        return CliRunner().invoke(app, ["gate", str(base / "good" / "graph.onnx"), str(two), "--dir", str(folder), *words])

    assert str(look().exception).startswith("--student: not given; expected one of: other, small")
    assert str(look("--student", "smal").exception).startswith("--student: no student 'smal'; expected one of: other, small")
    assert "have now decided 1 time(s) about other" in look("--student", "other").stdout


def test_what_is_no_graph_of_the_run_files_kind_is_refused(base: Path) -> None:
    (base / "none.onnx").write_bytes(b"no graph")
    done = judged(base, str(base / "none.onnx"))
    assert done.exception is not None
    assert "expected a graph that onnxruntime loads" in str(done.exception)


def test_a_file_that_ends_in_a_softmax_is_refused_before_it_is_judged(base: Path) -> None:
    model = onnx.load(str(base / "good" / "graph.onnx"))
    output = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Softmax", [output], ["probabilities"], axis=1))
    model.graph.output[0].name = "probabilities"
    onnx.save_model(model, str(base / "softmax.onnx"))
    said = str(judged(base, str(base / "softmax.onnx")).exception)
    assert said.endswith("answers with probabilities; expected logits: devices take a softmax of them; cut the Softmax")


def test_a_look_at_choose_is_by_other_samples_and_counts_nothing(base: Path, folder: Path) -> None:
    good = str(base / "good" / "graph.onnx")
    with Holder(RunFolder(folder)):  # not even a live run is in its way
        done = judged(base, good, "--dir", str(folder), "--part", "choose", "--json")
    assert done.exit_code == 0, done.output
    assert "a choice, no verdict" in done.stderr
    assert not (folder / "lineage.jsonl").exists()
    chosen, gate = json.loads(done.stdout), json.loads(judged(base, good, "--json").stdout)
    assert (chosen["part"], gate["part"]) == ("choose", "gate")
    assert chosen["candidate"]["samples"] != gate["candidate"]["samples"]


def test_in_a_runs_folder_a_file_is_held_against_what_stands_and_the_teacher_is_asked_once(base: Path, folder: Path) -> None:
    files, run = student_files(RunFolder(folder), 1, "small"), RunFolder(folder)
    shutil.copytree(base / "good", files.export)
    write_json(files.verdict, {"export": {"kind": "floats", "temperature": 0.5}})
    write_json(run.generation(1) / "opening.json", {"classes": {"small": ["spam", "ham"]}})
    write_json(run.generation(1) / "outcome.json", {"students": {"small": {"fate": "shipped", "spec": "s", "steps_total": 1}}})
    bad = str(base / "bad" / "graph.onnx")
    turned = json.loads((first := judged(base, bad, "--dir", str(folder), "--json")).stdout)
    assert "compared with generation 1 of small, as a run would" in first.stderr
    assert turned["incumbent"]["accuracy"] < 0.2, "its classes are read by their names"
    asked = (base / "asked").read_text()
    alone = judged(base, bad, "--dir", str(folder), "--no-incumbent", "--json")
    assert json.loads(alone.stdout)["incumbent"] is None
    assert (base / "asked").read_text() == asked, "what the run has asked is not asked again"


def test_an_incumbent_is_read_at_its_manifests_temperature_and_else_at_a_fitted_one_which_is_said(base: Path, tmp_path: Path) -> None:
    graph = shutil.copytree(base / "bad", tmp_path / "bad") / "graph.onnx"
    good = str(base / "good" / "graph.onnx")
    assert re.search(
        r"compared with .*, at temperature \S+: fitted, as it has no manifest", judged(base, good, "--incumbent", str(graph)).stdout
    )
    spec = InputSpec(kind="floats", name="input", width=4)
    facts: dict[str, Any] = {"student": "small", "release": 1, "positive": None, "teacher": "t", "memory_bytes": 1}
    manifest = BundleManifest(classes=("ham", "spam"), input=spec, temperature=7.5, **facts)
    golden = [Golden(input=(0.0,) * 4, probabilities=(0.5, 0.5))]
    bundle = build_bundle(tmp_path / "b.kdpb", manifest=manifest, graph=graph, weights=graph.with_name("weights.bin"), golden=golden)
    (graph.with_name("manifest.json")).write_text(json.dumps(manifest.to_json()))
    for file in (graph, bundle.path):
        assert f"compared with {file}, at temperature 7.5 as its manifest says" in judged(base, good, "--incumbent", str(file)).stdout
