"""The driver of a whole run, Ray and all, ended with SIGKILL; `python -m tests.fault.driver` does any number, with any recipe."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]


def test_a_driver_that_is_killed_twice_loses_and_doubles_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.driver", "--recipe", "digits", "--kills", "2", "--seed", "1"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=1150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 kills (")
    assert "0 lost, 0 duplicated, finished with all devices confirmed" in done.stdout
