"""`kdpipe` as a user runs it: a process of its own, watched through what it prints and what it leaves in its folder."""

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

KDPIPE = (str(Path(sys.executable).with_name("kdpipe")),)
PATIENCE_S = 300.0


def kdpipe(*words: str | Path, cwd: Path, timeout_s: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end."""
    command = [*KDPIPE, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False, env=_environment())


class BackgroundRun:
    """A `kdpipe run` that goes on while the test looks at it. Use as a context manager; what it left behind is killed at the end.

    `program` is what stands for `kdpipe`.
    """

    def __init__(self, *words: str | Path, cwd: Path, folder: Path, program: Sequence[str] = KDPIPE) -> None:
        self.folder = folder
        self._log = cwd / "run.out"
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                [*program, "run", *map(str, words)], cwd=cwd, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=_environment()
            )

    def __enter__(self) -> "BackgroundRun":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until(self, holds: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Return once it holds; fail with the run's output if the run ends or takes too long."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.output}"
            assert time.monotonic() < deadline_s, f"not {what} after {timeout_s:.0f} s:\n{self.output}"
            time.sleep(0.005)  # a stage may last but a tenth of a second

    def wait_for_stage(self, name: str) -> None:
        self.wait_until(lambda: stage_of(self.folder) == name, f"stage {name!r}")

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def tree(self) -> set[psutil.Process]:
        """The driver and everything below it now; empty once it has ended."""
        try:
            driver = psutil.Process(self.process.pid)
            return {driver, *driver.children(recursive=True)}
        except psutil.NoSuchProcess:
            return set()

    def watch_end(self, *, timeout_s: float) -> tuple[int, list[psutil.Process]]:
        """Wait for the end; returns the exit code, and what of its processes, those it still started too, lives on for seconds."""
        seen, deadline_s = self.tree(), time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"still running after {timeout_s:.0f} s:\n{self.output}"
            seen |= self.tree()
            time.sleep(0.02)
        _, alive = psutil.wait_procs(list(seen), timeout=20)
        return self.process.wait(), alive


def listening(processes: Iterable[psutil.Process]) -> list[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    """Name of the process and address, for each socket that listens."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    host = ipaddress.ip_address(connection.laddr.ip)
                    found.append((process.name(), getattr(host, "ipv4_mapped", None) or host))
    return found


def stage_of(folder: Path) -> str:
    """What the driver says it is doing."""
    status = read(folder / "status.json")
    return str(status["stage"]) if status else ""


def read(path: Path) -> Any:
    """JSON, or None where there is none yet."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def committed(folder: Path) -> list[str]:
    """Ids of all committed samples, in the order of the log."""
    from pipeline.labels.log import LogReader
    from pipeline.labels.shard import read_shard
    from pipeline.labels.store import open_store

    store = open_store(str(folder / "labels"))
    state = LogReader(store).refresh()
    return [i for commit in state.commits for i in read_shard(store, state.shard_of(commit)).table["sample_id"].to_pylist()]


def teacher_rows(folder: Path) -> Sequence[int]:
    """Rows asked of the teacher, by generation."""
    paths = sorted((folder / "generations").glob("*/labelling.json"))
    return [read(path)["teacher_rows"] for path in paths]


def _environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120"}
