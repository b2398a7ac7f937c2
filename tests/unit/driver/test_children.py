"""Children are recorded before they matter, die with their driver, and a recycled pid is never one of them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from workers.driver.children import Child, ChildFailedError, Children, end, recorded
from workers.driver.folder import RunFolder
from workers.driver.run import what_runs_on

SERVE = """
import json, sys, signal, threading, os
print(json.dumps({"ready": True, "port": 7}), flush=True)
if "--exit-with-parent" in sys.argv:
    sys.stdin.read()
else:
    signal.pause()
"""
COMMAND = (sys.executable, "-c", SERVE)

DRIVER = """
import sys, pathlib, time, os, signal
from workers.driver.children import Children
from workers.driver.folder import RunFolder
child = Children(RunFolder(pathlib.Path(sys.argv[1])), keep=False).start("part", sys.argv[2:])
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def wait_gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        return


def test_a_child_is_ready_when_it_says_so_and_gone_after_end_all(folder: RunFolder) -> None:
    children = Children(folder, keep=False)
    child = children.start("part", COMMAND)
    assert child.ready["port"] == 7
    assert recorded(folder)["part"].alive()
    children.end_all()
    assert not child.alive()
    assert recorded(folder) == {}


def test_a_child_dies_with_a_driver_that_was_killed(folder: RunFolder) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder.root), *COMMAND], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    driver.kill()
    driver.communicate()
    wait_gone(pid)
    assert not recorded(folder)["part"].alive()


def test_a_kept_child_is_adopted_by_the_same_command_and_replaced_by_another(folder: RunFolder) -> None:
    kept = Children(folder, keep=True).start("part", COMMAND)
    try:
        assert Children(folder, keep=True).start("part", COMMAND).pid == kept.pid
        other = Children(folder, keep=False)
        fresh = other.start("part", (*COMMAND, "--other"))
        assert fresh.pid != kept.pid
        assert not kept.alive()
        other.end_all()
    finally:
        end([kept])


class Killed(BaseException):
    """The driver ends here."""


def killed_before_recording(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize("next_run", [True, False], ids=["the next run", "kdpipe stop"])
def test_a_kept_child_of_a_driver_killed_before_it_recorded_it_is_found_and_ended(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, next_run: bool
) -> None:
    command = (*COMMAND, str(folder.root))
    with monkeypatch.context() as until_here:
        until_here.setattr(Children, "_record", killed_before_recording)
        with pytest.raises(Killed):
            Children(folder, keep=True).start("part", command)
    deadline_s = time.monotonic() + 10
    while not recorded(folder):  # until it is past its fork
        assert time.monotonic() < deadline_s
    left = recorded(folder)["part"]
    assert left.alive()
    if next_run:
        children = Children(folder, keep=False)
        assert children.start("part", command).pid != left.pid
        children.end_all()
    else:
        end(list(recorded(folder).values()))
    assert not left.alive()
    assert recorded(folder) == {}


def test_what_was_about_to_start_and_never_did_is_no_child(folder: RunFolder) -> None:
    children = Children(folder, keep=True)
    with pytest.raises(FileNotFoundError):
        children.start("part", (str(folder.root / "nothing"),))
    assert recorded(folder) == {}


def test_a_child_that_does_not_start_is_named_with_its_last_words(folder: RunFolder) -> None:
    children = Children(folder, keep=False)
    with pytest.raises(ChildFailedError, match=r"part: not ready \(exit code 10\): no port"):
        children.start("part", (sys.executable, "-c", "import sys; print('no port', file=sys.stderr); sys.exit(10)"))


def test_a_child_that_ends_by_itself_is_noticed(folder: RunFolder) -> None:
    children = Children(folder, keep=False)
    child = children.start("part", COMMAND)
    os.kill(child.pid, signal.SIGKILL)
    wait_gone(child.pid)
    with pytest.raises(ChildFailedError, match="ended by itself"):
        children.check()
    children.end_all()


def test_a_recycled_pid_is_not_a_child() -> None:
    mine = Child(part="x", pid=os.getpid(), started_unix_s=psutil.Process().create_time(), command=(), ready={}, kept=False)
    assert mine.alive()
    recycled = replace(mine, started_unix_s=mine.started_unix_s - 100)
    assert not recycled.alive()
    end([recycled])  # would end this very test


def test_a_run_that_keeps_its_fleet_says_what_runs_on_how_to_ask_it_and_how_to_end_it(folder: RunFolder) -> None:
    assert what_runs_on(folder, kind="text") == "kept       nothing runs on"
    children = Children(folder, keep=True)
    children.start_all({"orchestrator": COMMAND, "phones-1": (*COMMAND, "device")})
    folder.device("phones-1").mkdir(parents=True)
    try:
        first, second = what_runs_on(folder, kind="floats").splitlines()
    finally:
        children.end_all()
    assert first == f"kept       orchestrator, phones-1: `kdpipe stop {folder.root}` ends them"
    assert second.strip() == f"`kdpipe edge predict {folder.device('phones-1')} '[0.5, 1, 2]'` asks one"
