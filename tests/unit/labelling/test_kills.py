"""Ten SIGKILLs of a process that labels into a real folder; `python -m tests.fault.labels` does any number."""

import os
import re
import subprocess
import sys


def test_ten_kills_at_random_moments_lose_and_double_nothing():
    # A process of its own: it forks, which a test process with threads should not.
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.labels", "--kills", "10", "--seed", "5"],
        capture_output=True, text=True, timeout=100, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 duplicated" in done.stdout
    assert sum(int(count) for count in re.findall(r"(\d+) kills", done.stdout)) == 10
