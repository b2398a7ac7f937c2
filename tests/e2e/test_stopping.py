"""A run that is told to stop does so soon, wherever it is, leaves no process, says how to go on, and goes on."""

import signal
from pathlib import Path

import pytest

from tests.kit.digits_run import LEARNING, FinishedRun, StoppedRun, folder_of
from tests.kit.runs import BackgroundRun, committed, read, stage_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("stage", ["prepare", LEARNING], ids=["while it prepares", "while Ray starts"])
def test_ctrl_c_interrupts_work_that_looks_at_no_flag(home: Path, stage: str) -> None:
    """The second run goes on in the folder that the first one left."""
    folder = folder_of(home)
    with BackgroundRun("digits", cwd=home, folder=folder) as run:
        run.wait_for_stage(stage)
        run.process.send_signal(signal.SIGINT)
        code, alive = run.watch_end()
    assert (code, alive) == (130, [])
    assert "`kdpipe run digits` goes on from here" in run.output
    assert stage_of(folder) == "stopped"


def test_stop_while_it_labels_and_trains_ends_ray_too(stopped: StoppedRun) -> None:
    assert [(name, host) for name, host in stopped.heard if not host.is_loopback] == []
    assert {name for name, _ in stopped.heard} >= {"raylet", "gcs_server"}
    assert "stopped driver" in stopped.stop_said
    assert (stopped.code, stopped.left_alive) == (130, [])
    assert "`kdpipe run digits` goes on from here" in stopped.output
    assert stopped.stage == "stopped"


def test_a_run_that_was_stopped_goes_on_to_the_end(stopped: StoppedRun, finished: FinishedRun) -> None:
    assert committed(finished.folder)[: len(stopped.labels)] == stopped.labels
    assert read(finished.folder / "run.json")["devices"]["panels"]["confirmed"] == 3
