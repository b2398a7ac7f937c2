"""A run that is told to stop does so soon, wherever it is, leaves no process, says how to go on, and goes on.

The tests build on each other: one folder is stopped again and again, then finished.
"""

import signal
from pathlib import Path

import pytest

from tests.kit.runs import BackgroundRun, committed, kdpipe, listening, read, stage_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SOON_S = 30.0
LEARNING = "generation 1: label and train"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    return home / "runs" / "digits"


@pytest.mark.parametrize("stage", ["prepare", LEARNING], ids=["while it prepares", "while Ray starts"])
def test_ctrl_c_interrupts_work_that_looks_at_no_flag(home: Path, folder: Path, stage: str) -> None:
    with BackgroundRun("digits", cwd=home, folder=folder) as run:
        run.wait_for_stage(stage)
        run.process.send_signal(signal.SIGINT)
        code, alive = run.watch_end(timeout_s=SOON_S)
    assert (code, alive) == (130, [])
    assert "`kdpipe run digits` goes on from here" in run.output
    assert stage_of(folder) == "stopped"


def test_stop_while_it_labels_and_trains_ends_ray_too(home: Path, folder: Path) -> None:
    with BackgroundRun("digits", cwd=home, folder=folder) as run:
        run.wait_for_stage(LEARNING)
        run.wait_until(lambda: bool(committed(folder)), "labels are there")
        assert [(name, host) for name, host in listening(run.tree()) if not host.is_loopback] == []
        stopped = kdpipe("stop", folder, cwd=home)
        code, alive = run.watch_end(timeout_s=SOON_S)
    assert "stopped driver" in stopped.stdout
    assert (code, alive) == (130, [])
    assert "`kdpipe run digits` goes on from here" in run.output
    assert stage_of(folder) == "stopped"


def test_a_run_that_was_stopped_goes_on_to_the_end(home: Path, folder: Path) -> None:
    before = committed(folder)
    ended = kdpipe("run", "digits", cwd=home)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert committed(folder)[: len(before)] == before
    assert read(folder / "run.json")["devices"]["panels"]["confirmed"] == 3
