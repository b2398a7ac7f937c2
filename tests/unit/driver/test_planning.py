"""The plan says what a run would do, and refuses what the run would: before Ray, before a label."""

import json
import pickle
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ConfigError, KdpipeError
from pipeline.labels.log import ForeignClassesError
from pipeline.loop.generation import Opening, wanted_digests
from pipeline.recipes import PreparedOtherwiseError, prepare_run
from pipeline.releases.keys import Unlock
from pipeline.releases.repository import create_repository
from pipeline.students.faults import LogitsShapeError
from pipeline.students.hint import HintImpossibleError
from pipeline.students.models import StudentBuildError
from pipeline.students.onnx_file import ExportError
from pipeline.students.samples import LabelUnknownError, SamplesMissingError, SampleUnfitError
from tests.kit.bundles import Trust, text_bundle
from tests.kit.crews import LocalCrew
from workers.driver import run
from workers.driver.folder import read_json, write_json
from workers.driver.labels import labelling_of
from workers.driver.planning import check_prepared, check_samples, check_students, plan_text
from workers.driver.records import sources_of, student_files, write_opening
from workers.driver.request import RunRequest
from workers.labelling import Demand
from workers.labelling.faults import TeacherChangedError

RUN = """
name = "mine"
classes = ["ham", "spam"]
[stream]
path = "stream.jsonl"
[validation]
path = "stream.jsonl"
[teacher]
use = "{module}:load"
[labelling]
unit_rows = 16
[students.tiny]
options = {{ max_bytes = 64, width = 16 }}
[students.other]
options = {{ max_bytes = 64, width = 16 }}
[fleet.populations.phones]
student = "tiny"
devices = 1
"""

TEACHER = """
import numpy as np
class Two:
    classes = ["ham", "spam"]
    fingerprint = "two"
    def log_probs(self, inputs):
        return np.full((len(inputs), 2), -np.log(2), dtype=np.float32)
def load():
    return Two()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    module = f"teacher_{tmp_path.name}"  # an imported module stays
    (tmp_path / f"{module}.py").write_text(TEACHER)
    (tmp_path / "run.toml").write_text(RUN.format(module=module))
    write_stream(tmp_path, 40)
    return tmp_path


def write_stream(project: Path, rows: int) -> None:
    (project / "stream.jsonl").write_text("".join(json.dumps({"text": f"mail {row}"}) + "\n" for row in range(rows)))


def asked(project: Path, *overrides: str) -> RunRequest:
    return RunRequest.of(str(project / "run.toml"), None, overrides)


def label(request: RunRequest) -> None:
    labelling = labelling_of(request, 1, open_crew=LocalCrew)
    labelling.plan()
    labelling.run(demand=Demand, progress=lambda now: None, stop=threading.Event())


def leave_open(request: RunRequest) -> Opening:
    left = Opening(generation=1, new_rows=40, students=wanted_digests(request.run, sources_of(request.run, request.base)))
    write_opening(request.folder, left, request.run, sources_of(request.run, request.base))
    return left


def plan(request: RunRequest, *, fingerprint: str = "two") -> str:
    return plan_text(request, fingerprint=lambda: fingerprint)


def nobody_asks() -> str:
    raise AssertionError("without labels the teacher need not be loaded")


def test_a_student_changed_while_its_generation_is_open_starts_afresh_and_the_other_goes_on(project: Path) -> None:
    leave_open(asked(project))
    told = plan(asked(project, "students.tiny.temperature=3.0"))
    assert "student tiny: changed: trains afresh in generation 1; its checkpoints there go" in told
    assert "student other: goes on in generation 1\n" in told


def test_a_student_that_was_trained_when_it_changed_goes_on_as_it_was(project: Path) -> None:
    left = leave_open(asked(project))
    write_json(student_files(asked(project).folder, left.generation, "tiny").trained, {})
    assert "student tiny: goes on in generation 1 as it was trained; what" in plan(asked(project, "students.tiny.temperature=3.0"))


def edited_later(project: Path) -> tuple[RunRequest, Path]:
    """A request whose student `tiny` is of the user's own module."""
    code = project / f"mine_{project.name}.py"
    code.write_text("# as it was")
    return asked(project, f"students.tiny.use={code.stem}:make"), code


@pytest.mark.parametrize(("left", "told"), [((), "afresh"), (("trained",), "afresh"), (("trained", "verdict"), "on as it was")])
def test_an_edited_students_training_goes_on_only_where_nobody_needs_its_code_any_more(
    project: Path, left: tuple[str, ...], told: str
) -> None:
    request, code = edited_later(project)
    opening = leave_open(request)
    files = student_files(request.folder, 1, "tiny")
    for name in left:
        write_json(getattr(files, name), {"ships": False})
    assert "student tiny: goes on in generation 1\n" in plan(request)
    code.write_text("# as it is now")
    afresh = told == "afresh"
    says = "changed: trains afresh in generation 1" if afresh else "goes on in generation 1 as it was trained"
    assert f"student tiny: {says}" in plan(request)
    sources = sources_of(request.run, request.base)
    context: Any = SimpleNamespace(
        run=request.run, base=request.base, folder=request.folder, sources=sources, reporter=SimpleNamespace(say=lambda text: None)
    )
    going_on = run._open(context)
    assert going_on is not None
    assert (going_on.students["tiny"] != opening.students["tiny"]) is afresh
    assert going_on.students["other"] == opening.students["other"]
    assert files.trained.exists() is not afresh
    assert "student tiny: goes on in generation 1" in plan(request), "and no longer afresh"


def test_a_student_that_was_edited_after_its_generation_trains_afresh_in_the_next(project: Path) -> None:
    request, code = edited_later(project)
    opening = leave_open(request)
    students = {name: {"fate": "shipped", "spec": digest, "steps_total": 1} for name, digest in opening.students.items()}
    label(request)
    write_json(request.folder.generation(1) / "outcome.json", {"students": students})
    assert "student tiny: stays as it is (generation 1)\n" in plan(request)
    code.write_text("# as it is now")
    told = plan(request)
    assert "student tiny: trains afresh in generation 2\n" in told
    assert "student other: stays as it is (generation 1)\n" in told


def test_a_student_added_while_a_generation_is_open_waits_for_the_next(project: Path) -> None:
    leave_open(asked(project))
    added = asked(project, "students.third.options={ max_bytes = 64, width = 16 }")
    assert "student third: waits for the generation after 1, which is open" in plan(added)


def test_a_teacher_changed_under_its_labels_is_refused_by_the_plan_where_something_is_to_do(project: Path) -> None:
    label(asked(project))
    assert "teacher:" not in plan(asked(project))
    with pytest.raises(TeacherChangedError, match=r"fingerprint three; expected two"):
        plan(asked(project), fingerprint="three")


def test_a_teacher_changed_where_nothing_is_to_do_is_said(project: Path) -> None:
    request = asked(project)
    label(request)
    left = leave_open(request)
    students = {name: {"fate": "shipped", "spec": digest, "steps_total": 1} for name, digest in left.students.items()}
    write_json(request.folder.generation(1) / "outcome.json", {"generation": 1, "students": students})
    assert "teacher: asked nothing now, but the teacher of the run file has fingerprint three" in plan(request, fingerprint="three")


@pytest.mark.parametrize("change", ["seed=2", "prepare.options.feeds=2"])
def test_files_prepared_from_other_inputs_are_refused_and_left(tmp_path: Path, change: str) -> None:
    request = RunRequest.of("digits", tmp_path)
    prepare_run(request.run, folder=tmp_path, cache=tmp_path, say=lambda _: None, fetch=lambda *_: tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    check_prepared(request)
    with pytest.raises(PreparedOtherwiseError, match=change.partition("=")[0].rpartition(".")[2]):
        check_prepared(RunRequest.of("digits", tmp_path, (change,)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_nobody_prepared_is_not_prepared_by_a_look(tmp_path: Path) -> None:
    check_prepared(RunRequest.of("digits", tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ("use='bite_conv'", StudentBuildError, "byte_conv"),
        ("loss={ kll = 1.0 }", ConfigError, "known: ce, dist, dkd"),
        ("weighting={ certainty = 1.0 }", ConfigError, "known: class_balance, confidence"),
        ("options={ max_bytez = 64 }", StudentBuildError, "max_bytez"),
        ("loss={ ce = 1.0 }", ConfigError, "ce alone, and `stream.label` is not set"),
        ("loss={ kl = 1.0, hint = 0.5 }", HintImpossibleError, "`labelling.embedding` is false"),
    ],
)
def test_a_student_that_can_not_be_built_is_refused_before_anything_starts(
    project: Path, change: str, error: type[KdpipeError], named: str
) -> None:
    check_students(asked(project))
    with pytest.raises(error, match=named):
        check_students(asked(project, f"students.tiny.{change}"))


def test_labels_that_a_loss_would_learn_something_else_from_are_refused_and_tempered_ones_said(project: Path) -> None:
    drawn, top = 'labelling.codec="sampled"', 'labelling.codec="top_k"'
    with pytest.raises(ConfigError, match="kl at temperature 2 on labels of codec sampled"):
        check_students(asked(project, drawn))
    check_students(asked(project, drawn, "students.tiny.temperature=1.0", "students.other.temperature=1.0"))
    with pytest.raises(ConfigError, match="rs_kd on labels of codec top_k"):
        check_students(asked(project, top, "students.tiny.loss={ rs_kd = 1.0 }", "students.tiny.temperature=1.0"))
    told = plan(asked(project, top, "students.tiny.loss={ ghost = 1.0 }", "students.tiny.temperature=1.0"))
    assert "  other: its loss at temperature 2 is approximate: `top_k` keeps no record" in told
    assert "  tiny: its loss" not in told
    assert "approximate" not in plan(asked(project))


def test_a_student_whose_steps_end_before_the_labels_do_is_told_of(project: Path) -> None:
    told = plan(asked(project, "students.tiny.steps=4", "students.tiny.batch=8"))
    assert "  tiny: sees 32 of 40 labels: 4 steps of 8 end before them" in told
    assert "other: sees" not in told


STUDENTS = """
import torch


class Mine(torch.nn.Module):
    max_bytes = 16

    def __init__(self, classes, columns=2, looks=False):
        super().__init__()
        self.head, self.looks = torch.nn.Linear(16, columns), looks

    def forward(self, inputs):
        x = inputs.float()
        if self.looks and x.sum() > 3:
            x = x * 2
        return self.head(x)
"""


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ("columns = 1", LogitsShapeError, r"shape \[2, 1\] when it was tried on zeros; expected logits of shape \[2, 2\]"),
        ("looks = true", ExportError, "does not export to ONNX"),
    ],
)
def test_a_student_that_trains_and_would_never_ship_is_refused_before_anything_starts(
    project: Path, options: str, error: type[KdpipeError], named: str
) -> None:
    module = f"mine_{project.name}"
    (project / f"{module}.py").write_text(STUDENTS)
    with pytest.raises(error, match=named):
        check_students(asked(project, f"students.tiny.use='{module}:Mine'", f"students.tiny.options={{ {options} }}"))


def test_a_first_run_says_what_is_not_known_yet(project: Path) -> None:
    told = plan_text(asked(project), fingerprint=nobody_asks)
    assert "40 to label, teacher seconds not measured yet" in told
    assert "what 40 labels add is not measured yet" in told


def test_a_later_run_says_what_it_adds_at_what_labels_have_cost_so_far(project: Path) -> None:
    request = asked(project)
    label(request)
    assert "no labels are added" in plan(request)
    write_json(request.folder.generation(1) / "opening.json", {})
    write_json(request.folder.generation(1) / "labelling.json", {"teacher_rows": 40, "teacher_s": 20.0})
    write_json(request.folder.generation(1) / "outcome.json", {"generation": 1, "students": {}})
    write_stream(project, 100)
    told = plan(asked(project))
    assert "60 to label, about 30.0 teacher seconds" in told
    assert "60 labels add about 0." in told


def test_nothing_starts_from_a_release_that_was_taken_back_and_the_plan_says_so(project: Path) -> None:
    request = asked(project)
    folder, now = request.folder, datetime.now(UTC)
    create_repository(folder.keys, folder.releases, now=now)
    target = Trust(folder.keys, folder.releases).publish(text_bundle(project / "b"), now=now)
    opening = Opening(generation=1, new_rows=0, students=wanted_digests(request.run, sources_of(request.run, request.base)))
    write_opening(folder, opening, request.run, sources_of(request.run, request.base))
    student = {"fate": "shipped", "spec": opening.students["tiny"], "steps_total": 1}
    write_json(folder.generation(1) / "outcome.json", {"students": {"tiny": student}})
    write_json(student_files(folder, 1, "tiny").release, {"target": target.path})
    assert "student tiny: trains in generation 2, warm from generation 1\n" in plan(asked(project))
    Trust(folder.keys, folder.releases).signer().yank(target.path, reason="a typo", now=now)
    told = plan(asked(project))
    assert "student tiny: trains afresh in generation 2\n" in told
    assert "  tiny: generation 1 was taken back (a typo): nothing starts from it" in told


def test_labels_over_other_classes_are_refused_by_the_plan_and_the_folder_keeps_how_the_run_was(project: Path) -> None:
    request = asked(project)
    label(request)
    write_json(request.folder.origin_file, {"run": "as it was"})
    with pytest.raises(ForeignClassesError):
        plan(asked(project, "classes=['spam', 'ham']"))
    changed = asked(project, "classes=['spam', 'ham']", "fleet.populations.phones.devices=0")
    reporter = SimpleNamespace(say=lambda said: None, stage=lambda name: None)
    context: Any = SimpleNamespace(
        run=changed.run, base=changed.base, folder=changed.folder, reporter=reporter, check_stop=lambda: None, unlock=Unlock()
    )
    with pytest.raises(ForeignClassesError):
        run._go(context, changed)
    assert read_json(request.folder.origin_file) == {"run": "as it was"}


def numbers_in(project: Path, name: str, rows: list[dict[str, object]]) -> str:
    """An override that makes such a file the split of this name."""
    (project / f"{name}.jsonl").write_text("".join(json.dumps({"label": "ham", **row}) + "\n" for row in rows))
    return f"{name}={{ path = '{name}.jsonl', kind = 'floats', input = 'x', label = 'label' }}"


@pytest.mark.parametrize(
    ("split", "rows", "error", "says"),
    [
        ("test", [], SamplesMissingError, "test: no sample in it (rows that parse 0); expected at least one; give `test` more rows"),
        ("labelled", [], SamplesMissingError, "labelled: no sample in it"),
        (
            "test",
            [{"x": [1, 2, 3, 4]}, {"x": [1, 2, 3]}],
            SampleUnfitError,
            "shape (3,); expected 4 numbers, as student tiny takes; correct `test`",
        ),
        ("validation", [{"x": [1, 2, 3]}] * 40, SampleUnfitError, "shape (3,); expected 4 numbers, as student tiny takes"),
        ("test", [{"x": [1, 2, 3, 4], "label": "eggs"}], LabelUnknownError, "label 'eggs'"),
    ],
)
def test_a_split_that_would_end_the_run_after_training_is_refused_before_it(
    project: Path, split: str, rows: list[dict[str, object]], error: type[KdpipeError], says: str
) -> None:
    mlp = "{ use = 'mlp', options = { features = 4 } }"
    numbers = [numbers_in(project, name, [{"x": [1, 2, 3, row]} for row in range(40)]) for name in ("stream", "validation")]
    request = asked(project, *numbers, f"students.tiny={mlp}", f"students.other={mlp}", numbers_in(project, split, rows))
    with pytest.raises(error) as raised:
        check_samples(request)
    assert says in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_the_plan_says_where_the_gate_has_too_few_samples_to_let_a_successor_pass(project: Path) -> None:
    (note,) = check_samples(asked(project))
    assert re.fullmatch(
        r"  gate: against an incumbent, with \d+ samples identical answers would not pass; 268 do, or raise `gate.margin`", note
    )
    assert check_samples(asked(project, "gate.margin=0.5")) == []


def test_a_policy_that_has_no_evidence_here_is_told(project: Path) -> None:
    weighting = "students.tiny.weighting={ confidence = 1.0, hard_label = 1.0, disagreement = 2.0 }"
    told = plan(asked(project, weighting, "teacher.use=onnx"))
    assert "  tiny: weighting by `hard_label` does nothing: `stream.label` is not set" in told
    assert "  tiny: weighting by `disagreement` does nothing: the teacher is one model" in told
    assert "does nothing" not in plan(asked(project, weighting, "stream.label=text"))  # a teacher of one's own may tell


def test_a_folder_that_init_made_is_as_good_as_the_run_file_in_it(project: Path) -> None:
    by_folder = RunRequest.of(str(project), None)
    assert (by_folder.base, by_folder.folder) == (asked(project).base, asked(project).folder)
    with pytest.raises(ConfigError, match=r"run\.toml: unknown key 'stepz'"):
        RunRequest.of(str(project), None, ("stepz=1",))
    with pytest.raises(ConfigError, match="no such run file or recipe"):
        RunRequest.of(str(project.parent), None)


def close(request: RunRequest, fate: str) -> None:
    """Generation 1 came to this for both students, on the labels that are there."""
    label(request)
    opening = leave_open(request)
    students = {name: {"fate": fate, "spec": digest, "steps_total": 1} for name, digest in opening.students.items()}
    write_json(request.folder.generation(1) / "outcome.json", {"generation": 1, "students": students})


def test_a_release_taken_back_is_told_by_a_plan_in_which_nothing_trains(project: Path) -> None:
    request = asked(project)
    close(request, "shipped")
    folder, now = request.folder, datetime.now(UTC)
    create_repository(folder.keys, folder.releases, now=now)
    target = Trust(folder.keys, folder.releases).publish(text_bundle(project / "b"), now=now)
    write_json(student_files(folder, 1, "tiny").release, {"target": target.path})
    assert "taken back" not in plan(request)
    Trust(folder.keys, folder.releases).signer().yank(target.path, reason="a typo", now=now)
    assert "  tiny: generation 1 was taken back (a typo): devices that run it go on; the next one trains once" in plan(request)


def test_a_refused_student_is_told_not_to_be_judged_again_by_another_budget(project: Path) -> None:
    request = asked(project)
    close(request, "refused by the gate")
    told = plan(asked(project, "gate.accuracy_min=0.1"))
    assert "student tiny: stays as it is; generation 1 was refused by the gate, and none is judged before there are new samples" in told


def test_a_device_that_the_run_file_no_longer_has_is_told_before_it_is_revoked(project: Path) -> None:
    for name in ("phones-1", "phones-2"):
        asked(project).folder.device(name).mkdir(parents=True)
    told = plan(asked(project))
    assert "  device phones-2: no longer in the run file: will be revoked for ever" in told
    assert "phones-1" not in told
