"""The processes a run starts: recorded before they matter, adopted or ended by the next run.

A child gets a pipe as its standard input; when the driver dies, however it dies, the pipe closes and the child ends itself
(`--exit-with-parent`). With `keep` there is no pipe: the child stays until `kdpipe stop`. A record is (pid, start time, command),
so that a recycled pid is never mistaken for a child. What is about to start is recorded without a pid: a driver killed there leaves
a process that is found by its command, which names its folder. Each child is a session of its own: Ctrl-C reaches the driver alone.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from pipeline.errors import MachineError
from workers.driver.folder import RunFolder, read_json, write_json

READY_LINE_MAX_BYTES = 64 * 1024
WITH_PARENT = "--exit-with-parent"


class ChildFailedError(MachineError):
    """A part did not start, or ended by itself."""

    def __init__(self, part: str, found: str, log: str) -> None:
        super().__init__(part, found, log)
        self.part, self.found, self.log = part, found, log

    def __str__(self) -> str:
        expected = "" if "; expected " in self.found else "; expected it to run"  # what it said itself is a whole sentence
        return f"{self.part}: {self.found}{expected}; its log is {self.log}"


@dataclass(frozen=True, kw_only=True)
class Child:
    """One recorded process."""

    part: str
    pid: int
    started_unix_s: float
    command: tuple[str, ...]
    ready: dict[str, Any]
    """What it said when it was ready, such as its ports."""
    kept: bool

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_unix_s) < 1.0
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


class Children:
    """Starts, watches, adopts and ends the processes of one run. Not for several threads."""

    def __init__(self, folder: RunFolder, *, keep: bool) -> None:
        self._folder, self._keep = folder, keep
        self._children = {part: child for part, child in recorded(folder).items() if child.alive()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: str, command: Sequence[str], *, timeout_s: float = 60.0, secrets: Mapping[str, str] | None = None) -> Child:
        """Start one part, see `start_all`."""
        return self.start_all({part: command}, timeout_s=timeout_s, secrets=secrets)[part]

    def start_all(
        self, commands: Mapping[str, Sequence[str]], *, timeout_s: float = 60.0, secrets: Mapping[str, str] | None = None
    ) -> dict[str, Child]:
        """Start parts side by side, or adopt those that a run with `--keep` left alive with the same command. Returns when all are ready.

        `secrets` are added to their environment, and written nowhere.

        Raises ChildFailedError for the first that is not.
        """
        for part, command in commands.items():
            known = self._children.get(part)
            if known is not None and known.alive():
                if part in self._processes or (known.ready and known.kept and known.command == tuple(command)):
                    continue
                end([known])
            self._launch(part, command, secrets or {})
        for part, command in commands.items():
            if part in self._processes and not self._children[part].ready:
                self._await_ready(part, command, timeout_s)
        return {part: self._children[part] for part in commands}

    def _launch(self, part: str, command: Sequence[str], secrets: Mapping[str, str]) -> None:
        self._folder.logs.mkdir(parents=True, exist_ok=True)
        self._intend(part, command)
        with self._log(part).open("ab") as log:
            process = subprocess.Popen(
                [*command, *([] if self._keep else [WITH_PARENT])],
                stdin=subprocess.DEVNULL if self._keep else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **secrets},
            )
        self._processes[part] = process
        self._record(part, process, command, ready={})

    def _await_ready(self, part: str, command: Sequence[str], timeout_s: float) -> None:
        process = self._processes[part]
        assert process.stdout is not None
        ready = _ready_line(process.stdout, timeout_s)
        if ready is None:
            process.kill()
            raise ChildFailedError(part, f"not ready (exit code {process.wait()}): {_last_line(self._log(part))}", str(self._log(part)))
        self._record(part, process, command, ready=ready)

    def check(self) -> None:
        """Raises ChildFailedError for the first child of this run that ended by itself."""
        for part, child in self._children.items():
            process = self._processes.get(part)
            ended = process.poll() is not None if process else not child.alive()
            if ended:
                raise ChildFailedError(part, f"ended by itself: {_last_line(self._log(part))}", str(self._log(part)))

    def end_others(self, parts: Set[str]) -> None:
        """End the parts that are not among `parts`: an earlier run's, which this one has no use for."""
        others = [child for part, child in self._children.items() if part not in parts]
        end(others)
        for child in others:
            del self._children[child.part]
        self._write()

    def end_all(self) -> None:
        """End every child, recorded ones of a killed driver too."""
        for process in self._processes.values():
            if process.stdin:
                process.stdin.close()
        end(list(self._children.values()))
        for process in self._processes.values():
            process.wait()
            if process.stdout:
                process.stdout.close()
        self._children.clear()
        self._processes.clear()
        self._write()

    def _log(self, part: str) -> Path:
        return self._folder.logs / f"{part}.log"

    def _intend(self, part: str, command: Sequence[str]) -> None:
        self._children.pop(part, None)
        intent: dict[str, Any] = {
            "part": part,
            "pid": None,
            "started_unix_s": time.time(),
            "command": command,
            "ready": {},
            "kept": self._keep,
        }
        self._write(intent)

    def _record(self, part: str, process: subprocess.Popen[bytes], command: Sequence[str], *, ready: dict[str, Any]) -> Child:
        child = Child(
            part=part,
            pid=process.pid,
            started_unix_s=psutil.Process(process.pid).create_time(),
            command=tuple(command),
            ready=ready,
            kept=self._keep,
        )
        self._children[part] = child
        self._write()
        return child

    def _write(self, *more: Mapping[str, Any]) -> None:
        write_json(self._folder.children_file, [*(asdict(child) for child in self._children.values()), *more])


def recorded(folder: RunFolder) -> dict[str, Child]:
    """The processes on record, alive or not; those that a killed driver could not write down, if they live."""
    found = {}
    for row in read_json(folder.children_file) or []:
        pids = [(row["pid"], row["started_unix_s"])] if row["pid"] else _running(tuple(row["command"]))
        for pid, started_unix_s in pids:
            facts = {"pid": pid, "started_unix_s": started_unix_s, "command": tuple(row["command"])}
            found[row["part"]] = Child(**{**row, **facts})
    return found


def _running(command: tuple[str, ...]) -> list[tuple[int, float]]:
    """(pid, start time) of the process that was started by this command, if there is one."""
    return [
        (process.pid, process.info["create_time"])
        for process in psutil.process_iter(["cmdline", "create_time"])
        if tuple(word for word in process.info["cmdline"] or () if word != WITH_PARENT) == command
    ]


def end(children: Sequence[Child], *, grace_s: float = 5.0) -> None:
    """SIGTERM to those that live, SIGKILL to those that still live after the grace."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        living = [child for child in children if child.alive()]
        if not living:
            return
        for child in living:
            _signal(child, signal_number)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(child.alive() for child in living):
            time.sleep(0.02)


def _signal(child: Child, number: signal.Signals) -> None:
    try:
        os.kill(child.pid, number)
    except ProcessLookupError:
        return


def _ready_line(stream: IO[bytes], timeout_s: float) -> dict[str, Any] | None:
    """The first line as JSON; None where the process ended, said something else, or took too long."""
    data = b""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not data.endswith(b"\n") and len(data) < READY_LINE_MAX_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            piece = os.read(stream.fileno(), 4096)
            if not piece:
                return None
            data += piece
    try:
        line = json.loads(data)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.get("ready") is True else None


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return "no log"
    return lines[-1] if lines else "nothing in its log"
