"""`python -m workers.orchestrator` as a process of its own, one after another on the same folder."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

from tests.kit.bundles import Trust
from tests.kit.wire_devices import Endpoints
from workers.orchestrator.client import Operator
from workers.orchestrator.pki import operator_credentials, utc

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("workers.orchestrator",)


class OrchestratorProcess:
    """One replica. `trust` is shared where there are several; a context manager that leaves no process behind.

    What it logs is in `log`: a pipe that nobody reads would hold it up.
    """

    def __init__(self, folder: Path, *, trust: Trust | None = None, name: str = "fleet", options: Sequence[str] = ()) -> None:
        self.folder, self.fleet_dir, self.log = folder, folder / name, folder / f"{name}.log"
        self.trust = trust or Trust.make(folder, now=utc(time.time()))
        self.child: subprocess.Popen[str] | None = None
        self.ready: dict[str, Any] = {}
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is not None:
            self.child.kill()
            self.reap()

    def spawn(self, *options: str, program: Sequence[str] = PROGRAM, stderr: int | IO[str] = subprocess.PIPE) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", *program, "--dir", str(self.fleet_dir), "--repository", str(self.trust.repository)]
        command += ["--keys", str(self.trust.keys / "online"), "--busy-sync-s", "0.05", "--idle-sync-s", "0.1"]
        command += ["--device-calls-per-s", "10000", "--device-reports-per-s", "10000", "--syncs-per-s", "100000"]
        command += [*self._options, *options]
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=stderr, text=True)
        return self.child

    def start(self, *options: str, program: Sequence[str] = PROGRAM) -> bool:
        """Return once it serves; False where it ended before that without a word, as a killed one does."""
        with self.log.open("a") as log:
            child = self.spawn(*options, program=program, stderr=log)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            code = self.reap()
            assert code < 0, f"exit code {code}: {self.log.read_text()[-2000:]}"
            return False
        self.ready = json.loads(line)
        return True

    def end(self, number: int) -> int:
        """Signal the process, return its exit code."""
        assert self.child is not None
        self.child.send_signal(number)
        return self.reap()

    def reap(self) -> int:
        """Wait for the end of a process that was told, or was killed; returns its exit code."""
        assert self.child is not None
        code = self.child.wait(timeout=30)
        for stream in (self.child.stdin, self.child.stdout, self.child.stderr):
            if stream is not None:
                stream.close()
        self.child = None
        return code

    @property
    def pki_dir(self) -> Path:
        return self.fleet_dir / "pki"

    def endpoints(self) -> Endpoints:
        ports = {name: self.ready[f"{name}_port"] for name in ("fleet", "enrolment", "operator")}
        return Endpoints(host="127.0.0.1", ca_pem=operator_credentials(self.pki_dir)[0], **ports)

    def operator(self) -> Operator:
        return Operator.open(self.fleet_dir)
