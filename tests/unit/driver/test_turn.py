"""A generation acted out: what one student's failure leaves to the others, and to the next generation."""

import contextlib
import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import DataError, KdpipeError
from pipeline.loop.generation import Fate, Opening, opening, wanted_digests
from pipeline.students.faults import ClassesChangedError, StudentRaisedError
from pipeline.students.onnx_file import ExportError
from tests.kit.bundles import text_bundle
from tests.kit.crews import LocalCrew
from workers.driver import turn
from workers.driver.folder import read_json, write_json
from workers.driver.labels import labelling_of
from workers.driver.learning import StageCrashedError
from workers.driver.records import classes_of, open_generation, outcomes, student_files, trained_digests, write_opening
from workers.driver.request import RunRequest
from workers.driver.turn import Turn
from workers.labelling import Demand
from workers.training import TrainingFailedError

RUN = """
name = "mine"
classes = ["ham", "spam"]
stream.path = "stream.jsonl"
validation.path = "stream.jsonl"
teacher.use = "{module}:Two"
students.good = {{ options = {{ max_bytes = 64, width = 16 }} }}
students.odd = {{ options = {{ max_bytes = 64, width = 16 }} }}
fleet.populations.phones = {{ student = "good", devices = 1 }}
"""
SOURCES = {"good": "", "odd": ""}
TEACHER = """
import numpy as np
class Two:
    classes, fingerprint = ["ham", "spam"], "two"
    def log_probs(self, inputs):
        return np.full((len(inputs), 2), -np.log(2), dtype=np.float32)
"""


def label(request: RunRequest, generation: int) -> None:
    labelling = labelling_of(request, generation, open_crew=LocalCrew)
    labelling.plan()
    labelling.run(demand=Demand, progress=lambda now: None, stop=threading.Event())


@pytest.fixture
def request_in(tmp_path: Path) -> RunRequest:
    """Of a run whose one generation is labelled and whose students are trained."""
    module = f"two_{tmp_path.name}"  # an imported module stays
    (tmp_path / f"{module}.py").write_text(TEACHER)
    (tmp_path / "stream.jsonl").write_text("".join(json.dumps({"text": f"mail {row}"}) + "\n" for row in range(8)))
    (tmp_path / "run.toml").write_text(RUN.format(module=module))
    request = RunRequest.of(str(tmp_path / "run.toml"), None, ())
    label(request, 1)
    write_opening(request.folder, Opening(generation=1, new_rows=8, students=wanted_digests(request.run, SOURCES)), request.run, SOURCES)
    for name in request.run.students:
        write_json(student_files(request.folder, 1, name).trained, {})
    return request


def turn_of(request: RunRequest, said: list[str]) -> Turn:
    anything = SimpleNamespace(generation=lambda number: None, verdict=lambda name, *, ships: None)
    context: Any = SimpleNamespace(
        run=request.run,
        sources=SOURCES,
        base=request.base,
        folder=request.folder,
        stop=SimpleNamespace(at_once=contextlib.nullcontext),
        check_stop=lambda: None,
        reporter=SimpleNamespace(stage=lambda name: None, say=said.append),
        metrics=SimpleNamespace(series=anything),
    )
    found = open_generation(request.folder)
    assert found is not None
    fleet: Any = None  # nothing is rolled out
    return Turn(context, found, fleet)


def judging(request: RunRequest, error: Exception) -> Any:
    def judge(context: Any, opening: Opening, name: str) -> dict[str, Any]:
        if name == "odd":
            raise error
        verdict = {"ships": False, "why": "no budget was met", "says": "judged"}
        write_json(student_files(request.folder, opening.generation, name).verdict, verdict)
        return verdict

    return judge


@pytest.mark.parametrize(("error", "known_as"), [(ExportError("odd", "a loop"), ExportError), (IndexError("axis 0"), StageCrashedError)])
def test_a_student_that_can_not_be_judged_holds_no_other_and_trains_again_in_the_next_generation(
    request_in: RunRequest, monkeypatch: pytest.MonkeyPatch, error: Exception, known_as: type[KdpipeError]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(turn, "judge_student", judging(request_in, error))
    (failed,) = turn_of(request_in, said).run()
    assert isinstance(failed, known_as)
    students = outcomes(request_in.folder)[1]["students"]
    assert (students["good"]["fate"], students["odd"]["fate"]) == (Fate.REFUSED, Fate.UNJUDGED)
    assert str(error) in students["odd"]["says"]
    assert "judged" in said
    assert open_generation(request_in.folder) is None
    assert trained_digests(request_in.folder).keys() == {"good"}


@pytest.mark.parametrize("error", [DataError("no gate samples"), OSError(28, "no space left")])
def test_what_concerns_every_student_ends_the_run_and_leaves_the_generation_open(
    request_in: RunRequest, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(turn, "judge_student", judging(request_in, error))
    with pytest.raises(type(error)):
        turn_of(request_in, []).run()
    assert open_generation(request_in.folder) is not None


def test_checkpoints_of_a_training_that_failed_stay_until_the_student_is_trained(
    request_in: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = request_in.folder
    for name in ("good-000001", "odd-000001"):
        (folder.training / name).mkdir(parents=True)
    monkeypatch.setattr(turn, "judge_student", judging(request_in, ExportError("odd", "a loop")))
    student_files(folder, 1, "odd").trained.unlink()
    failed = turn_of(request_in, [])
    failed._failed["odd"] = TrainingFailedError("odd", "its trainer failed", "its folder")
    failed.run()
    assert outcomes(folder)[1]["students"]["odd"]["fate"] == Fate.FAILED
    assert [path.name for path in folder.training.iterdir()] == ["odd-000001"]
    label(request_in, 2)
    again = {"odd": wanted_digests(request_in.run, SOURCES)["odd"]}
    write_opening(folder, Opening(generation=2, new_rows=0, students=again), request_in.run, SOURCES)
    write_json(student_files(folder, 2, "odd").trained, {})
    write_json(student_files(folder, 2, "odd").verdict, {"ships": False, "why": ""})
    turn_of(request_in, []).run()
    assert list(folder.training.iterdir()) == []


def test_the_trace_of_a_users_own_module_is_in_the_log_and_the_line_says_where(
    request_in: RunRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    monkeypatch.setattr(turn, "judge_student", judging(request_in, StudentRaisedError("odd", "ValueError: my bug", "at step 1", "line 7")))
    turn_of(request_in, said).run()
    assert [vars(record)["trace"] for record in caplog.records if "trace" in vars(record)] == ["line 7"]
    assert any("ValueError: my bug" in line and line.endswith("`kdpipe logs DIR driver` has its trace") for line in said)


def test_a_student_that_failed_trains_again_without_new_rows_and_from_the_version_before(request_in: RunRequest) -> None:
    folder, digests = request_in.folder, wanted_digests(request_in.run, SOURCES)
    for generation, fate in ((1, Fate.NOT_DEPLOYED), (2, Fate.FAILED)):
        write_opening(folder, Opening(generation=generation, new_rows=0, students=digests), request_in.run, SOURCES)
        students = {name: {"fate": fate, "spec": digests[name], "steps_total": 10} for name in digests}
        write_json(folder.generation(generation) / "outcome.json", {"generation": generation, "new_rows": 0, "students": students})
    due = opening(last_generation=2, new_rows=0, wanted=digests, trained=trained_digests(folder))
    assert due is not None
    assert due.students.keys() == {"good", "odd"}
    write_opening(folder, due, request_in.run, SOURCES)
    starts = {name: turn_of(request_in, [])._spec(name).warm_start for name in digests}
    assert starts == {name: student_files(folder, 1, name).weights for name in digests}


def test_a_student_trained_for_other_classes_than_the_run_files_is_not_judged_and_trains_afresh(request_in: RunRequest) -> None:
    """As after `clean DIR --labels`, which the refusal of other classes advises, while a generation was open."""
    turned = replace(request_in, run=request_in.run.model_copy(update={"classes": ("spam", "ham")}))
    left = open_generation(request_in.folder)
    assert left is not None
    write_opening(request_in.folder, left, turned.run, SOURCES)  # what was trained goes on as what it is
    errors = turn_of(turned, []).run()
    assert {type(error) for error in errors} == {ClassesChangedError}
    assert "trained for the classes ['ham', 'spam']; expected ['spam', 'ham']" in str(errors[0])
    assert trained_digests(request_in.folder) == {}
    assert classes_of(request_in.folder, 1, "good") == ("ham", "spam")


def test_classes_of_a_version_that_an_older_kdpipe_made_are_its_bundles(request_in: RunRequest) -> None:
    opening_file = request_in.folder.generation(1) / "opening.json"
    record = read_json(opening_file)
    del record["classes"]
    write_json(opening_file, record)
    assert classes_of(request_in.folder, 1, "good") is None
    text_bundle(request_in.folder.root / "b", release=1).path.rename(student_files(request_in.folder, 1, "good").bundle)
    assert classes_of(request_in.folder, 1, "good") == ("ham", "spam")
