"""Wrong input gets one line that says what, found, expected and what to do, an exit code of its own, and nothing is lost."""

import json
import socket
from pathlib import Path

import pytest

from tests.kit.runs import kdpipe

RUN = """
name = "mine"
classes = ["ham", "spam"]
[stream]
path = "stream.jsonl"
[validation]
path = "stream.jsonl"
[teacher]
use = "my_teacher:load"
[students.tiny]
options = {{ max_bytes = 64, width = 16 }}
steps = 5
[fleet.populations.phones]
student = "tiny"
devices = 1
{extra}
"""

TEACHER = """
import numpy as np
class Two:
    classes = {classes}
    def log_probs(self, inputs):
        return np.full((len(inputs), len(self.classes)), -np.log(len(self.classes)), dtype=np.float32)
def load():
    return Two()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN.format(extra=""))
    (tmp_path / "my_teacher.py").write_text(TEACHER.format(classes=["ham", "spam"]))
    (tmp_path / "stream.jsonl").write_text("\n".join(json.dumps({"text": f"mail {row}"}) for row in range(40)))
    return tmp_path


def refused(project: Path, *words: str, code: int) -> str:
    """The one line of a refusal."""
    done = kdpipe("run", "run.toml", *words, cwd=project)
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_an_unknown_key_names_the_known_ones(project: Path) -> None:
    line = refused(project, "--set", "students.tiny.stepz=3", code=2)
    assert "unknown key 'stepz'" in line
    assert "steps" in line


def test_a_wrong_type_says_what_was_found_and_expected(project: Path) -> None:
    line = refused(project, "--set", "students.tiny.steps='many'", code=2)
    assert "students.tiny.steps" in line
    assert "'many'" in line
    assert "integer" in line


def test_a_missing_run_file_names_the_recipes(project: Path) -> None:
    done = kdpipe("run", "nothing.toml", cwd=project)
    assert done.returncode == 2
    assert "spam" in done.stderr


def test_a_missing_file_says_what_is_there(project: Path) -> None:
    (project / "stream.jsonl").rename(project / "other.jsonl")
    assert "other.jsonl" in refused(project, code=3)


def test_a_missing_column_names_the_columns(project: Path) -> None:
    line = refused(project, "--set", "stream.input=body", code=3)
    assert "'body'" in line
    assert "text" in line


def test_a_teacher_of_other_classes_is_refused_before_any_label(project: Path) -> None:
    rows = [json.dumps({"text": "mail", "part": part}) for part in ("fit", "choose", "Gate")]
    (project / "parts.jsonl").write_text("\n".join(rows))
    parts = ("--set", "validation.path=parts.jsonl", "--set", 'validation.options={ carry = ["part"] }')
    assert "part 'Gate'" in refused(project, "--dry-run", *parts, code=3)
    (project / "my_teacher.py").write_text(TEACHER.format(classes=["ham", "spam", "eggs"]))
    assert "eggs" in refused(project, code=5)
    assert not list((project / "runs" / "mine" / "labels").rglob("*.arrow"))


def test_a_callable_that_is_not_there_names_what_is(project: Path) -> None:
    assert "load" in refused(project, "--set", "teacher.use=my_teacher:lead", code=2)


def test_a_taken_port_is_named(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refused(project, "--set", f"metrics.port={port}", code=10)


def test_a_dry_run_opens_validation_and_the_teacher_too(project: Path) -> None:
    assert "'klass'" in refused(project, "--dry-run", "--set", "validation.label=klass", code=3)
    rows = [json.dumps({"text": "mail", "part": part}) for part in ("fit", "choose", "Gate")]
    (project / "parts.jsonl").write_text("\n".join(rows))
    parts = ("--set", "validation.path=parts.jsonl", "--set", 'validation.options={ carry = ["part"] }')
    assert "part 'Gate'" in refused(project, "--dry-run", *parts, code=3)
    (project / "my_teacher.py").write_text(TEACHER.format(classes=["ham", "spam", "eggs"]))
    assert "eggs" in refused(project, "--dry-run", code=5)


def test_a_dry_run_writes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*.*"))
    done = kdpipe("run", "run.toml", "--dry-run", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "40 new, 40 to label" in done.stdout
    assert "student tiny: trains afresh in generation 1" in done.stdout
    assert [path for path in sorted(project.rglob("*.*")) if path.suffix != ".pyc"] == before
