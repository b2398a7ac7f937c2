"""The real process that holds a teacher: right answers, and an end to everything that goes wrong in it."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import load
from pipeline.sources import SCHEMAS
from pipeline.teachers import TeacherOutputError
from pipeline.teachers.checked import CheckedTeacher
from pipeline.teachers.teacher import TeacherUnavailableError
from tests.kit.orchestrators import RunningOrchestrator, refused_with
from tests.kit.teachers import CountingTeacher
from workers.frames import Frame, Kind, receive_frame, send_frame
from workers.orchestrator import answering, teacher_process
from workers.orchestrator.question import Question, pack, shape_of
from workers.orchestrator.teacher_process import TeacherDiedError, TeacherProcess, TeacherSilentError, without_secrets
from workers.orchestrator.teacher_worker import _run_of, answers, inputs_of, serve

MINE = """
import os, time

class Mine:
    classes = ("spam", "ham")
    fingerprint = "mine-1"

    def log_probs(self, inputs):
        import numpy as np
        texts = inputs.to_pylist()
        if "die" in texts:
            os._exit(3)
        if "hang" in texts:
            time.sleep(1000)
        if "odd" in texts:
            raise ValueError("odd")
        spam = np.array([1 / (1 + len(text)) for text in texts])
        return np.log(np.stack([spam, 1 - spam], axis=1))

def teacher():
    print("a teacher may print")
    return Mine()

def broken():
    raise OSError("no weights")
"""
RUN = """
name = "mine"
classes = ["ham", "spam"]
stream = {path = "s.jsonl"}
validation = {path = "s.jsonl"}
teacher = {use = "mine:teacher"}
students = {small = {}}
fleet = {populations = {desk = {student = "small"}}}
"""


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path / "run.toml"


@contextlib.contextmanager
def started(run: Path) -> Iterator[TeacherProcess]:
    teacher = TeacherProcess(run, os.environ)
    try:
        teacher.start()
        yield teacher
    finally:
        teacher.close()


def test_over_the_wire_a_real_teacher_answers_and_one_that_a_question_kills_comes_back(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "FIRST_PAUSE_S", 0.01)
    with RunningOrchestrator(tmp_path, open_teacher=partial(TeacherProcess, run, os.environ)) as orchestrator:
        answering_ = orchestrator.orchestrator._answering
        assert answering_ is not None
        orchestrator.wait_for(lambda: answering_._facts is not None, timeout_s=60)
        (device,) = orchestrator.devices(1)
        said = device.ask("abc")
        assert (list(said.classes), said.teacher) == (["ham", "spam"], "mine-1"), "in the order of the run file"
        assert list(said.probabilities) == pytest.approx([0.75, 0.25])
        with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "fails on this input"):
            device.ask("odd")
        with refused_with(grpc.StatusCode.UNAVAILABLE):
            device.ask("die")
        device.sync()
        orchestrator.wait_for(lambda: answering_._facts is not None, timeout_s=60)
        assert list(device.ask("é").probabilities) == pytest.approx([0.5, 0.5])


def test_one_that_hangs_is_given_up_and_ends_with_whoever_started_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(run) as teacher:
        process = teacher._process
        assert process is not None
        assert process.stdin is not None
        teacher._peer.settimeout(0.05)
        with pytest.raises(TeacherDiedError, match="no answer within"):
            teacher.ask([b"hang"])
        assert teacher.alive
        process.stdin.close()  # as the kernel does for an orchestrator that was killed
        assert process.wait(20) == -signal.SIGKILL


def test_closing_wakes_who_waits_for_an_answer(run: Path) -> None:
    with started(run) as teacher:
        threading.Timer(0.05, teacher.close).start()
        with pytest.raises(TeacherDiedError, match="has ended"):
            teacher.ask([b"hang"])
    with pytest.raises(TeacherDiedError):
        teacher.ask([b"too late"])


def test_one_that_does_not_load_says_why_in_one_line(run: Path) -> None:
    run.write_text(RUN.replace("mine:teacher", "mine:broken"))
    with pytest.raises(TeacherSilentError, match="no weights"), started(run):
        pass
    run.write_text("name = 7")
    with pytest.raises(TeacherSilentError, match=r"run\.toml"), started(run):
        pass
    never_started = TeacherProcess(run, os.environ)
    never_started.close()
    with pytest.raises(TeacherDiedError, match="no longer wanted"):
        never_started.start()


def test_a_runs_folder_says_its_run_file_with_what_was_set_by_hand(tmp_path: Path, run: Path) -> None:
    changed = load(RUN, where="run.toml", overrides=["teacher.use=mine:other"])
    origin = {"base": str(tmp_path), "name": "run.toml", "run": changed.model_dump(mode="json")}
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "origin.json").write_text(json.dumps(origin))
    assert _run_of(folder) == (changed, tmp_path)
    assert _run_of(run) == (load(RUN, where="run.toml"), tmp_path)


def test_an_answer_of_another_shape_is_not_believed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = TeacherProcess(run, os.environ)
    teacher._classes = 2
    for rows, width, numbers in [(2, 2, 4), (1, 3, 3), (1, 2, 1), (0, 2, 0)]:
        frame = Frame(Kind.ANSWER, rows, width, 0.0, bytearray(4 * numbers))
        monkeypatch.setattr(teacher_process, "receive_frame", lambda peer, frame=frame: frame)
        with pytest.raises(TeacherDiedError, match="it answered"):
            teacher.ask([b"hello"])
    teacher.close()


def test_a_teacher_sees_nothing_that_opens_keys_or_the_database(tmp_path: Path) -> None:
    (tmp_path / "keys" / "online").mkdir(parents=True)
    opens = {"KDPIPE_ONLINE_PASSPHRASE": "x", "KDPIPE_RELEASE_PASSPHRASE_FILE": "y", "PGPASSWORD": "z"}
    needs = {"PATH": "/bin", "OPENAI_API_KEY": "k"}
    assert without_secrets({**opens, **needs}, tmp_path / "keys" / "online") == needs


def framed(*questions: Question) -> Frame:
    return Frame(Kind.RUN, len(questions), shape_of(questions[0]), 0.0, bytearray(pack(questions)))


def test_questions_arrive_in_the_form_of_a_sources_inputs() -> None:
    texts = inputs_of(framed(b"a", b"", "é\0ü".encode()))
    assert texts.type == SCHEMAS["text"].field("input").type
    assert texts.to_pylist() == ["a", "", "é\0ü"]
    values = np.arange(3, dtype=np.float32)
    numbers = inputs_of(framed(values, values + 0.5))
    assert numbers.type == SCHEMAS["floats"].field("input").type
    assert numbers.to_pylist() == [[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]
    for array in (texts, numbers):
        array.validate(full=True)


class Picky(CountingTeacher):
    """Fails on some texts, by what it raises or by what it answers; likes its inputs the other way round."""

    def batches(self, inputs):
        if "unsortable" in inputs.to_pylist():
            raise ValueError("unsortable")
        return [np.arange(len(inputs))[::-1]]

    def log_probs(self, inputs):
        texts = inputs.to_pylist()
        if "away" in texts:
            raise TeacherUnavailableError("http://10.0.0.7", f"500: no answer to {texts}")
        if "raises" in texts:
            raise ValueError("raises")
        given = super().log_probs(inputs)
        return given * 2 if "not a distribution" in texts else given


def asked(*texts: str) -> np.ndarray:
    teacher = Picky()
    teacher.poison("nan")
    return answers(CheckedTeacher(teacher, name="picky", classes=("spam", "ham")), pa.array(texts), rows=64)


@pytest.mark.parametrize("bad", ["nan", "raises", "not a distribution", "unsortable"])
def test_a_bad_input_is_one_row_of_nan_and_costs_no_other_its_answer(bad: str) -> None:
    fine = [f"text {'x' * number}" for number in range(9)]
    said = asked(*fine[:4], bad, *fine[4:])
    alone = np.concatenate([asked(text) for text in fine])
    assert np.delete(said, 4, axis=0) == pytest.approx(alone)
    assert np.isnan(said[4]).all() == (bad != "unsortable")
    assert alone.sum(axis=1) == pytest.approx(1.0, abs=1e-6)


def test_a_teacher_that_fails_on_all_by_what_it_answers_is_at_fault_itself() -> None:
    with pytest.raises(TeacherOutputError):
        asked("not a distribution", "not a distribution")
    assert np.isnan(asked("raises", "raises")).all()


def test_what_a_teacher_elsewhere_said_of_an_input_is_not_passed_on_to_the_log() -> None:
    ours, theirs = socket.socketpair()
    teacher = CheckedTeacher(Picky(), name="picky", classes=("spam", "ham"))
    worker = threading.Thread(target=serve, args=(theirs, lambda: (teacher, "text", 64)))
    worker.start()
    with ours:
        ours.settimeout(20)
        assert receive_frame(ours).kind == Kind.READY
        send_frame(ours, Kind.RUN, pack([b"away", b"private"]), rows=2, width=0)
        said = receive_frame(ours)
        assert said.kind == Kind.ERROR
        assert b"10.0.0.7" in said.payload
        assert b"private" not in said.payload
    worker.join(20)
    theirs.close()


def test_a_teacher_that_is_away_is_away_for_all() -> None:
    with pytest.raises(TeacherUnavailableError):
        asked("hello", "away")
