"""`kdpipe edge`: what a person types, and what it imports."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from pipeline.errors import ConfigError, FolderBusyError
from pipeline.rollout.slots import Slots
from tests.kit.bundles import numbers_bundle, text_bundle, text_probabilities, text_table
from tests.kit.devices import Models
from tests.kit.told_teacher import ToldTeacher
from workers.edge.allowance import AskOptions
from workers.edge.asking import Asking
from workers.edge.cli import ROWS_A_CALL, app
from workers.edge.enrol import EnrolmentInvalidError
from workers.edge.folder import FolderLock
from workers.edge.inputs import softmax
from workers.edge.lines import LineUnreadableError
from workers.edge.local_api import LocalApi, LocalServer
from workers.edge.local_client import DeviceSilentError
from workers.edge.metrics import EdgeMetrics
from workers.edge.model_process import ModelProcess
from workers.edge.serving import Serving
from workers.rpc import local_pb2 as pb

WEIGHTS = np.asarray([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]], dtype=np.float32)
ROOT = Path(__file__).parents[3]
RUNNER = CliRunner()
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    bundle = text_bundle(tmp_path / "bundles")
    serving = Serving(Models().start)
    serving.serve(Slots(tmp_path / "slots").stage(bundle.path, bundle.sha256))
    api = LocalApi(serving, status=lambda: pb.GetStatusResponse(state="CONFIRMED", generation=3), metrics=EdgeMetrics(CollectorRegistry()))
    server = LocalServer(tmp_path / "predict.sock", api)
    server.start()
    yield tmp_path
    server.close()


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[Path]:
    """A device whose student eats three numbers, in its real model process."""
    bundle = numbers_bundle(tmp_path / "bundles", WEIGHTS)
    serving = Serving(ModelProcess.start)
    serving.serve(Slots(tmp_path / "slots").stage(bundle.path, bundle.sha256))
    status = pb.GetStatusResponse(input=pb.Input(kind="floats", width=3))
    server = LocalServer(tmp_path / "predict.sock", LocalApi(serving, status=lambda: status, metrics=EdgeMetrics(CollectorRegistry())))
    server.start()
    yield tmp_path
    server.close()
    serving.close()


def answers(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    return softmax(np.asarray(rows, dtype=np.float32) @ WEIGHTS, 1.0)


def expected(text: str) -> str:
    row = text_probabilities(text, text_table(1))
    return f"{('ham', 'spam')[row[1] > row[0]]}\t{max(row):.4f}"


def test_predict_answers_one_line_for_each_text(folder: Path) -> None:
    result = RUNNER.invoke(app, ["predict", str(folder), "hello", "buy now"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [expected("hello"), expected("buy now")]


def test_predict_reads_lines_where_no_text_is_given(folder: Path) -> None:
    result = RUNNER.invoke(app, ["predict", str(folder), "-"], input='hello\n"two\\nlines"\n[not json\n')
    assert result.stdout.splitlines() == [expected("hello"), expected("two\nlines"), expected("[not json")]


def test_predict_answers_more_lines_of_a_file_than_one_call_takes(folder: Path) -> None:
    lines = [f"line {n}" for n in range(2 * ROWS_A_CALL + 1)]
    (folder / "lines.txt").write_text("\n".join(lines))
    result = RUNNER.invoke(app, ["predict", str(folder), "--file", str(folder / "lines.txt")])
    assert result.stdout.splitlines() == [expected(line) for line in lines]
    assert RUNNER.invoke(app, ["predict", str(folder), "x", "--file", str(folder / "lines.txt")]).exit_code == 2


def test_predict_as_json_is_one_object_for_each_input(folder: Path) -> None:
    result = RUNNER.invoke(app, ["predict", str(folder), "hello", "buy now", "--json"])
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["student"], first["release"]) == ("small", 1)
    assert first["prediction"] == max(first["probabilities"], key=first["probabilities"].get)
    assert list(second["probabilities"].values()) == pytest.approx(text_probabilities("buy now", text_table(1)), abs=1e-5)


def test_a_pipe_that_goes_on_is_answered_line_by_line(folder: Path) -> None:
    command = [sys.executable, "-m", "workers.edge", "predict", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=UNBUFFERED) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("hello", "buy now"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{expected(text)}\n"
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_model_of_numbers_gets_json_lists_and_what_is_none_is_named(numbers: Path) -> None:
    rows = [(0.5, 0.1, -1.0), (2.0, 0.0, 0.0)]
    right = [f"{('ham', 'spam')[int(probabilities.argmax())]}\t{probabilities.max():.4f}" for probabilities in answers(rows)]
    said = RUNNER.invoke(app, ["predict", str(numbers), *(json.dumps(row) for row in rows)])
    assert said.stdout.splitlines() == right
    bad = RUNNER.invoke(app, ["predict", str(numbers), "[1, 2]"])
    assert str(bad.exception).startswith("input 1: 2 numbers; expected a JSON list of 3 numbers")


def test_a_bad_line_is_named_by_its_number_and_those_before_it_are_answered(numbers: Path) -> None:
    file = numbers / "rows.jsonl"
    good = json.dumps([0.5, 0.1, -1.0])
    file.write_text(f'{good}\n{good}\n[1, "two", 3]\n{good}\n')
    said = RUNNER.invoke(app, ["predict", str(numbers), "--file", str(file)])
    assert len(said.stdout.splitlines()) == 2
    assert isinstance(said.exception, LineUnreadableError)
    assert str(said.exception).startswith(f'{file}, line 3: "two" in place 2; expected a JSON list of 3 numbers')


def test_an_answer_of_the_teachers_is_shown_as_that(tmp_path: Path) -> None:
    bundle, metrics = text_bundle(tmp_path / "bundles"), EdgeMetrics(CollectorRegistry())
    serving = Serving(Models().start)
    serving.serve(Slots(tmp_path / "slots").stage(bundle.path, bundle.sha256))
    asking = Asking(AskOptions(below=1.0), line=ToldTeacher(), window=serving.window, metrics=metrics, rng=random.Random(1))
    server = LocalServer(tmp_path / "predict.sock", LocalApi(serving, status=pb.GetStatusResponse, metrics=metrics, asking=asking))
    server.start()
    try:
        assert RUNNER.invoke(app, ["predict", str(tmp_path), "hello"]).stdout == "spam\t0.9375\tby the teacher\n"
        assert json.loads(RUNNER.invoke(app, ["predict", str(tmp_path), "hello", "--json"]).stdout)["by_teacher"] is True
    finally:
        server.close()


@pytest.mark.parametrize("option", ["--ask-below", "--ask-share", "--asks-per-hour", "--ask-wait-ms"])
def test_an_option_of_asking_that_cannot_be_meant_is_refused_before_anything_runs(tmp_path: Path, option: str) -> None:
    refused = RUNNER.invoke(app, ["run", "--dir", str(tmp_path / "device"), option, "-1"]).exception
    assert isinstance(refused, ConfigError)
    assert str(refused).startswith(f"{option}: -1; expected")
    assert not (tmp_path / "device").exists()


def test_status_is_a_picture_and_as_json_the_facts(folder: Path) -> None:
    lines = RUNNER.invoke(app, ["status", str(folder)]).stdout.splitlines()
    assert lines[0] == "CONFIRMED"
    assert "{" not in "".join(lines), "no Python values"
    assert json.loads(RUNNER.invoke(app, ["status", str(folder), "--json"]).stdout)["generation"] == 3


def test_errors_are_the_ones_that_become_exit_codes(tmp_path: Path) -> None:
    silent = RUNNER.invoke(app, ["predict", str(tmp_path), "x"]).exception
    assert isinstance(silent, DeviceSilentError)
    assert str(silent).endswith(f"(not enrolled yet); expected one that runs; `kdpipe edge enrol {tmp_path} --enrolment FILE` comes first")
    assert "no such folder" in str(RUNNER.invoke(app, ["status", str(tmp_path / "none")]).exception)
    enrol = ["enrol", str(tmp_path / "device"), "--enrolment", str(tmp_path / "none.json")]
    assert isinstance(RUNNER.invoke(app, enrol).exception, EnrolmentInvalidError)


def test_a_device_that_a_run_plays_is_started_by_that_run(tmp_path: Path) -> None:
    folder = tmp_path / "devices" / "phones-1"
    (folder / "identity").mkdir(parents=True)
    (folder / "identity" / "certificate.pem").touch()
    assert f"`kdpipe edge run --dir {folder}` starts it" in str(RUNNER.invoke(app, ["status", str(folder)]).exception)
    (tmp_path / "origin.json").touch()
    asked = str(RUNNER.invoke(app, ["status", str(folder)]).exception)
    assert asked.endswith(f"it is a device of the run in {tmp_path}: `kdpipe run RUNFILE --keep` starts it and leaves it running")


def test_two_agents_cannot_hold_one_folder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    advice = rf"`kdpipe edge status {tmp_path}`.*`kill {os.getpid()}`"
    with pytest.raises(FolderBusyError, match=rf"held by an agent, pid {os.getpid()};.*{advice}"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


def test_an_error_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workers.edge", "run", "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 9
    assert done.stderr.startswith("kdpipe edge: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["workers.edge.cli", "workers.edge.device_process", "workers.edge.model_worker"])
def test_a_device_imports_neither_ray_nor_torch_nor_pyarrow(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{m.partition('.')[0] for m in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    heavy = {"ray", "torch", "pyarrow", "pandas", "sqlalchemy", "sklearn", "onnx", "pydantic"}
    if module == "workers.edge.model_worker":
        heavy |= {"grpc", "tuf", "typer"}
    assert [name for name in sorted(heavy) if f"'{name}'" in found] == []
