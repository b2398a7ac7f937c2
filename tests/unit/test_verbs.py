"""The verbs that look at a run: `status`, `logs`, `init`, `doctor`, as a user types them."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

import workers.doctor
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.recipes import OWN, RECIPES
from pipeline.releases.repository import create_repository
from workers.cli import app
from workers.doctor import Check
from workers.driver.folder import Holder, RunFolder, write_json
from workers.driver.worker_logs import LINK


def kdpipe(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was killed while it trained its second generation; one of its parts still lives."""
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    write_json(folder.origin_file, {"base": str(tmp_path), "name": "digits", "run": {"labelling": {}}})
    gauge = {"name": "labels", "done": 1200, "total": 2400, "says": "90/s"}
    write_json(folder.status_file, {"stage": "generation 2: label and train", "gauges": [gauge], "elapsed_s": 3.5, "error": ""})
    for number in (1, 2):
        write_json(folder.generation(number) / "opening.json", {})
    write_json(folder.generation(1) / "outcome.json", {"generation": 1, "students": {"small": {"fate": "shipped"}}})
    me = psutil.Process()
    child = {"part": "orchestrator", "pid": me.pid, "started_unix_s": me.create_time(), "command": ["x"], "ready": {}, "kept": True}
    gone = {**child, "part": "phones-1", "started_unix_s": 1.0}
    write_json(folder.children_file, [child, gone])
    return folder


def test_status_of_a_killed_run_says_where_it_was_and_what_still_lives(run: RunFolder) -> None:
    said = kdpipe("status", run.root)
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0] == f"{run.root}: killed while: generation 2: label and train"
    assert "  labels: 1,200 of 2,400 90/s" in lines
    assert "  generation 1: small shipped" in lines
    assert "  generation 2: open" in lines
    assert f"  orchestrator: pid {os.getpid()}" in lines
    assert "  phones-1: not running" in lines


def test_status_as_json_says_the_same_facts_in_one_object(run: RunFolder) -> None:
    facts = json.loads(kdpipe("status", run.root, "--json").output)
    assert (facts["stage"], facts["driver_pid"], facts["elapsed_s"]) == ("killed while: generation 2: label and train", None, 3.5)
    assert facts["labels"]["rows_planned"] == facts["labels"]["rows_committed"] == 0
    assert [generation.get("open", False) for generation in facts["generations"]] == [False, True]
    assert {process["part"]: process["alive"] for process in facts["processes"]} == {"orchestrator": True, "phones-1": False}


def test_status_warns_of_metadata_that_has_ended_and_of_none_that_holds(run: RunFolder) -> None:
    create_repository(run.keys, run.releases, now=datetime.now(UTC) - timedelta(days=340))
    said = kdpipe("status", run.root).output
    for role in ("root", "targets"):
        assert f"  warning: {role} metadata expires in 24 days: then no device installs anything; `kdpipe keys renew DIR {role}" in said
    (run.releases / "metadata" / "1.targets.json").unlink()
    assert "1.targets.json: no such file" in kdpipe("status", run.root).output


def test_status_of_a_live_run_names_its_driver(run: RunFolder) -> None:
    with Holder(run):
        assert f"generation 2: label and train (driver pid {os.getpid()})" in kdpipe("status", run.root).output


def test_status_and_logs_of_a_folder_without_a_run_say_so(tmp_path: Path) -> None:
    for verb in ("status", "logs"):
        assert isinstance(error := kdpipe(verb, tmp_path).exception, ConfigError)
        assert "no run was started here" in str(error)


@pytest.mark.parametrize(
    ("stream", "place"), [({"path": "mine.jsonl", "use": "files"}, "mine.jsonl"), ({"path": None, "use": "m:c"}, "m:c")]
)
def test_a_run_without_feeds_says_where_its_samples_go(tmp_path: Path, stream: dict[str, Any], place: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    write_json(folder.origin_file, {"base": str(tmp_path), "name": "mine", "run": {"prepare": None, "stream": stream}})
    said = str(kdpipe("feed", folder.root, "2").exception)
    assert "its run file makes no feeds" in said
    assert f"{place}, and `kdpipe run --continuous` finds them there" in said


@pytest.fixture
def logs(run: RunFolder, tmp_path: Path) -> Path:
    """What a run's processes wrote, Ray's workers included."""
    run.logs.mkdir()
    (run.logs / "driver.log").write_text("".join(f'{{"line": {number}}}\n' for number in range(100)))
    session = tmp_path / "session" / "logs"
    session.mkdir(parents=True)
    for name, kind in {"TeacherActor": "actor", "RayTrainWorker": "actor", "make_control": "task", "DatasetManager": "actor"}.items():
        for place, end in enumerate(("out", "err")):
            head = f":job_id:01000000\n:{kind}_name:{name}\n"
            (session / f"worker-{name.lower()}-01000000-{100 + place}.{end}").write_text(f"{head}{name} says {end}\n")
    (session / "raylet.out").write_text("Ray's own")
    (run.logs / LINK).symlink_to(session)
    return run.root


def test_logs_lists_every_part_teachers_and_trainers_too(logs: Path) -> None:
    parts = [line.split()[0] for line in kdpipe("logs", logs).output.splitlines()]
    assert parts == [
        *("control-100.out", "control-101.err", "driver", "teacher-100.out", "teacher-101.err", "trainer-100.out", "trainer-101.err")
    ]


def test_logs_prints_the_last_lines_of_a_part(logs: Path) -> None:
    assert kdpipe("logs", logs, "driver", "-n", "2").output == '{"line": 98}\n{"line": 99}\n'
    assert "TeacherActor says err" in kdpipe("logs", logs, "teacher-101.err").output


def test_logs_of_no_such_part_names_those_there(logs: Path) -> None:
    error = kdpipe("logs", logs, "phones-9").exception
    assert isinstance(error, ConfigError)
    assert "no log of 'phones-9'" in str(error)
    assert "driver, teacher-100.out" in str(error)


def test_logs_of_a_ray_session_that_is_gone_are_left_out(logs: Path, run: RunFolder) -> None:
    (run.logs / LINK).unlink()
    (run.logs / LINK).symlink_to(logs / "gone")
    assert kdpipe("logs", logs).output.split()[0] == "driver"


@pytest.mark.parametrize("recipe", sorted({OWN, *RECIPES}))
def test_init_writes_a_run_file_that_is_valid_and_never_over_one(recipe: str, tmp_path: Path) -> None:
    target = tmp_path / "mine" / "run.toml"
    first = kdpipe("init", recipe, target.parent)
    assert first.exit_code == 0, first.output
    assert f"kdpipe run {target} --dry-run" in first.output
    assert load(target.read_text(), where=str(target)).name == recipe
    target.write_text("edited")
    error = kdpipe("init", recipe, target.parent).exception
    assert isinstance(error, ConfigError)
    assert "a file is already here" in str(error)
    assert target.read_text() == "edited"


def test_the_project_to_make_ones_own_opens_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kdpipe("init", OWN, tmp_path / "mine").exit_code == 0
    monkeypatch.chdir(tmp_path)
    plan = kdpipe("run", tmp_path / "mine" / "run.toml", "--dry-run")
    assert plan.exit_code == 0, plan.exception
    assert "600 to label" in plan.output
    assert not (tmp_path / "mine" / "runs").exists()


def test_init_of_no_such_recipe_names_the_known(tmp_path: Path) -> None:
    error = kdpipe("init", "spma", tmp_path / "mine").exception
    assert "digits, own, spam" in str(error)
    assert not (tmp_path / "mine").exists()


FINE = Check(name="python", ok=True, found="3.11", expected="3.11 or newer", next_command="")
MISSING = Check(name="npm", ok=False, found="none on PATH", expected="npm", next_command="apt-get install npm")


@pytest.mark.parametrize(("found", "code"), [([FINE], 0), ([FINE, MISSING], 10)], ids=["all there", "something missing"])
def test_doctor_exits_with_10_where_something_is_missing(found: list[Check], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def checks(*_: Any, **__: Any) -> list[Check]:
        return [replace(check) for check in found]

    monkeypatch.setattr(workers.doctor, "checks", checks)
    said = kdpipe("doctor")
    assert said.exit_code == code
    assert ("NO  npm: none on PATH; expected npm; apt-get install npm" in said.output) == (code == 10)
    as_json = kdpipe("doctor", "--json")
    assert as_json.exit_code == code
    assert [json.loads(line)["ok"] for line in as_json.output.splitlines()] == [check.ok for check in found]
