"""Starting a Ray of one's own: again where it did not come up, with nothing left of the start that failed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from workers.local_ray import STARTS, start_local_ray

LEFT_RUNNING = [sys.executable, "-c", "input()", "--session-dir=/tmp/ray/session_of_a_test"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def failing(times: int, started: list[subprocess.Popen[bytes]]) -> Callable[..., None]:
    """A `ray.init` that starts a process each time, and fails the first `times`."""

    def init(**options: Any) -> None:
        assert options["address"] == "local"
        started.append(subprocess.Popen(LEFT_RUNNING, stdin=subprocess.PIPE))
        if len(started) <= times:
            raise RuntimeError(f"timed out, {len(started)}")

    return init


def test_a_start_that_failed_is_tried_again_and_what_it_left_is_ended(started: list[subprocess.Popen[bytes]]) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    before = subprocess.Popen(LEFT_RUNNING, stdin=subprocess.PIPE)
    try:
        start_local_ray(failing(1, started))
        assert [psutil.pid_exists(process.pid) and process.poll() is None for process in started] == [False, True]
        assert bystander.poll() is None
        assert before.poll() is None
    finally:
        for process in (bystander, before):
            process.kill()
            process.communicate()


def test_a_ray_that_never_starts_is_given_up_with_its_last_reason(started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(RuntimeError, match=f"timed out, {STARTS}"):
        start_local_ray(failing(STARTS, started))
    assert len(started) == STARTS
