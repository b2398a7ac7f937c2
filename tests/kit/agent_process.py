"""A device's agent in a process of its own: `python -m workers.edge run` on a folder, as a machine would run it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class AgentProcess:
    """Started, and ready: it answers, or says that it has no model."""

    def __init__(self, folder: Path, enrolment: Path, *options: str, shadow_s: float = 0.1, trial_s: float = 0.1) -> None:
        command = [sys.executable, "-m", "workers.edge", "run", "--dir", str(folder), "--enrolment", str(enrolment)]
        command += ["--metrics-port", "0", "--exit-with-parent", "--shadow-s", str(shadow_s), "--trial-s", str(trial_s)]
        command += options
        self.folder = folder
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the agent ended with {self.process.wait()}"
        self.ready: dict[str, Any] = json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self, timeout_s: float = 10) -> int:
        code = self.process.wait(timeout_s)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return code
