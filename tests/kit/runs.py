"""`kdpipe` as a user runs it: a process of its own, watched through what it prints and what it leaves in its folder."""

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

KDPIPE = (str(Path(sys.executable).with_name("kdpipe")),)
PATIENCE_S = 120.0
"""A command that prints nothing for so long hangs: a run says each stage as it comes, and every few seconds how far it is."""

SOON_S = 30.0
"""Within which a run that is told to stop has ended."""


class Patience:
    """Runs out when what `look` returns has stayed the same for so long, however long all of it takes.

    A machine with ten times as much to do as it has processors for is given ten times as long.
    """

    def __init__(self, look: Callable[[], object], seconds: float = PATIENCE_S) -> None:
        self._look, self._seconds = look, seconds
        self._seen, self._since_s = look(), time.monotonic()

    @property
    def is_over(self) -> bool:
        seen, now_s = self._look(), time.monotonic()
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        crowding = os.getloadavg()[0] / (os.cpu_count() or 1)
        return now_s - self._since_s > self._seconds * max(1.0, crowding)


def kdpipe(*words: str | Path, cwd: Path, patience_s: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end. One that is silent for longer than `patience_s` is killed, and fails the test with what it had said."""
    command = [*KDPIPE, *map(str, words)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def said() -> tuple[str, str]:
            return _whole(out), _whole(err)

        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=err, env=_environment())
        patience = Patience(lambda: [os.fstat(file.fileno()).st_size for file in (out, err)], patience_s)
        try:
            while not _has_ended(process):
                assert not patience.is_over, f"{command} says nothing more:\n" + "\n".join(said())
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(command, process.returncode, *said())


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Waits for it for a moment."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    return process.returncode is not None


def _whole(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


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

    def wait_until(self, holds: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
        """Return once it holds; fail with the run's output if the run ends, or says nothing new for so long."""
        patience = Patience(lambda: self._log.stat().st_size, patience_s)
        while not holds():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.output}"
            assert not patience.is_over, f"not {what}, and it says nothing more:\n{self.output}"
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

    def watch_end(self) -> tuple[int, list[psutil.Process]]:
        """Wait for the end of a run that was told to stop, which comes soon; returns the exit code, and what of its processes, those it
        still started too, lives on for seconds.
        """
        seen, deadline_s = self.tree(), time.monotonic() + SOON_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"still running {SOON_S:.0f} s after it was told to stop:\n{self.output}"
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
