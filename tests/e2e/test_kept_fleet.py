"""`kdpipe run --keep`: the fleet outlives the run, a device of another machine joins it, the next run adopts it, `kdpipe stop` ends it.

The tests build on each other, as a user's days do.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.kit.digits_run import FinishedRun, folder_of
from tests.kit.runs import KDPIPE, PATIENCE_S, committed, kdpipe, read
from workers.orchestrator.client import Operator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, finished: FinishedRun) -> Path:
    return finished.copy(tmp_path_factory.mktemp("kept") / "home")


@pytest.fixture(scope="module")
def folder(home: Path) -> Iterator[Path]:
    folder = folder_of(home)
    kept = kdpipe("run", "digits", "--keep", cwd=home)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert "devices confirmed 3 of 3" in kept.stdout
    assert "nothing is new" in kept.stdout
    yield folder
    kdpipe("stop", folder, cwd=home)


def kept(folder: Path) -> dict[str, int]:
    """Process ids of what a run left running, by part."""
    return {child["part"]: child["pid"] for child in read(folder / "children.json")}


def test_a_kept_device_answers_after_its_run_has_ended(home: Path, folder: Path) -> None:
    device = next(path for path in sorted((folder / "devices").rglob("*")) if path.name == "panels-1")
    asked = subprocess.run(
        [*KDPIPE, "edge", "predict", str(device), "-", "--json"],
        input=json.dumps([0.0] * 64),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=home,
    )
    assert sum(json.loads(asked.stdout)["probabilities"].values()) == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module")
def visitor(home: Path) -> Iterator[Callable[[], Path]]:
    """Switches on a device that the run did not start, once it is enrolled."""
    started: list[subprocess.Popen[bytes]] = []

    def switch_on() -> Path:
        command = [*KDPIPE, "edge", "run", "--dir", str(home / "visitor"), "--exit-with-parent"]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=home))
        assert started[-1].stdout
        assert json.loads(started[-1].stdout.readline())["ready"]
        return home / "visitor"

    yield switch_on
    for process in started:
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=30)


def test_running_again_asks_the_teacher_nothing_and_trains_nobody(folder: Path, finished: FinishedRun) -> None:
    assert committed(folder) == committed(finished.folder)
    assert [path.name for path in (folder / "generations").iterdir()] == ["000001"]


def test_a_device_of_another_machine_joins_by_a_token_once(home: Path, folder: Path) -> None:
    enrolment, device = home / "visitor.json", home / "visitor"
    made = kdpipe("token", "new", folder, "panels", "--out", enrolment, cwd=home)
    assert made.returncode == 0, made.stderr
    assert enrolment.stat().st_mode & 0o777 == 0o600
    first = kdpipe("edge", "enrol", device, "--enrolment", enrolment, cwd=home)
    assert first.returncode == 0, first.stderr
    stolen = kdpipe("edge", "enrol", home / "thief", "--enrolment", enrolment, cwd=home)
    assert stolen.returncode != 0
    assert "Traceback" not in stolen.stderr


def test_the_next_run_adopts_what_was_kept_and_counts_the_visitor(home: Path, folder: Path, visitor: Callable[[], Path]) -> None:
    before = kept(folder)
    device = visitor()
    _wait_until_confirmed(folder, devices=4)
    again = kdpipe("run", "digits", "--keep", cwd=home)
    assert again.returncode == 0, again.stderr
    assert kept(folder) == before
    assert "devices confirmed 4 of 4" in again.stdout
    answer = kdpipe("edge", "status", device, "--json", cwd=home)
    assert json.loads(answer.stdout)["state"] == "CONFIRMED"


def _wait_until_confirmed(folder: Path, *, devices: int) -> None:
    """A run waits for the devices of its own machine only: the kept orchestrator says when a visitor runs what it should."""
    operator = Operator.open(folder / "fleet", host="127.0.0.1")
    deadline_s = time.monotonic() + PATIENCE_S
    try:
        while sum(bool(device.running_digest) for device in operator.get_fleet().devices) < devices:
            assert time.monotonic() < deadline_s, "the visitor never confirmed the release"
            time.sleep(0.05)
    finally:
        operator.close()


def test_a_population_that_is_not_there_is_named(home: Path, folder: Path) -> None:
    refused = kdpipe("token", "new", folder, "phones", "--out", home / "x.json", cwd=home)
    assert refused.returncode != 0
    assert "panels" in refused.stderr


def test_stop_ends_what_was_kept(home: Path, folder: Path) -> None:
    processes = [psutil.Process(pid) for pid in kept(folder).values()]
    stopped = kdpipe("stop", folder, cwd=home)
    assert stopped.returncode == 0, stopped.stderr
    assert all(part in stopped.stdout for part in ("orchestrator", "panels-1"))
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
