"""Students from transformers and timm, as docs/students.md shows them: taught, exported to int8, held against the module, judged."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.budgets import GateSection
from pipeline.students.control import train_in_memory
from pipeline.students.evaluation import Candidate
from pipeline.students.export import export_student
from pipeline.students.gate import judge
from pipeline.students.models import build_student
from pipeline.students.samples import Samples
from tests.kit.students import CLASSES, mails, spec
from tests.kit.timm_alone import import_timm
from tests.unit.students.test_zoo import TASKS

PAGE = Path(__file__).parents[3] / "docs" / "students.md"
BERT = {"max_bytes": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {"name": "vit_tiny_patch16_224", "img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}
RESNET = {"name": "test_resnet"}
SQUARE = {"side": 8, "channels": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's modules, in files of the names that it gives them."""
    base = tmp_path_factory.mktemp("page")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.S):
        (base / name).write_text(code)
    assert {path.name for path in base.iterdir()} == {"bert_student.py", "timm_student.py"}
    import_timm()
    return base


def bars(rows: int, *, seed: int) -> Samples:
    (pixels,) = [task for task in TASKS if task.use == "pixels"]
    return pixels.samples(rows, seed=seed)


@pytest.mark.parametrize(
    ("use", "options", "samples", "steps"),
    [
        pytest.param("bert_student:Bert", BERT, mails, 60, id="transformers"),
        pytest.param("timm_student:Timm", SQUARE | VIT, bars, 250, id="timm"),
        pytest.param("timm_student:Timm", SQUARE | RESNET, bars, 40, id="timm with BatchNorm"),
    ],
)
def test_a_librarys_model_learns_ships_as_int8_and_passes_the_gate(
    folder: Path, tmp_path: Path, use: str, options: dict[str, Any], samples: Callable[..., Samples], steps: int
) -> None:
    kind = "text" if samples is mails else "floats"
    made = replace(spec(kind=kind, use=use, options=options, steps=steps, batch=16, learning_rate=0.01), base=folder)
    student = train_in_memory(made, samples(300, seed=1))
    exported = export_student(name="own", student=student, fit=samples(60, seed=2), choose=samples(60, seed=3), out=tmp_path)
    assert (exported.quantisation, exported.reason) == ("int8", "")
    assert exported.parity.agreement > 0.95
    report = judge(
        student="own",
        candidate=Candidate(graph=exported.graph, kind=exported.kind, temperature=exported.temperature),
        incumbent=None,
        gate=samples(100, seed=4),
        section=GateSection(accuracy_min=0.85, agreement_min=0.85),
        classes=CLASSES,
        positive="spam",
        clock=time.perf_counter,
    )
    assert report.ships, report.table()


def test_a_model_that_normalises_over_batches_is_warned_of(folder: Path) -> None:
    def warnings(options: dict[str, Any]) -> tuple[str, ...]:
        return build_student(replace(spec(kind="floats", use="timm_student:Timm", options=SQUARE | options), base=folder)).warnings

    (says,) = warnings(RESNET)
    assert "normalises over batches" in says
    assert warnings(VIT) == ()


def test_an_empty_text_has_an_answer(folder: Path) -> None:
    student = build_student(replace(spec(use="bert_student:Bert", options=BERT), base=folder))
    assert torch.isfinite(student.module(torch.zeros((2, 32), dtype=torch.uint8))).all()


def test_dropout_of_a_librarys_model_is_the_same_after_a_restart(folder: Path) -> None:
    made = replace(spec(use="bert_student:Bert", options=BERT, steps=3), base=folder)
    first, again = (train_in_memory(made, mails(30)).module.state_dict() for _ in range(2))
    assert all(bool((first[name] == again[name]).all()) for name in first)
