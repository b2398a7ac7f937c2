"""The orchestrator's end of a teacher's process: start it, ask it, notice that it died, end it.

Its calls block and belong in a thread; `close` may be called from any, and ends what another waits for. When to start another is
`answering`'s.
The process gets none of the orchestrator's secrets: it runs models and code that are not ours.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import workers
from pipeline.errors import TeacherError
from pipeline.releases.keys import OWNERS, variables_of
from workers.frames import Frame, Kind, receive_frame, send_frame
from workers.orchestrator.question import Question, pack, shape_of
from workers.privacy import opt_out

VERSION = 1
"""Of what a worker says when it is ready."""
START_TIMEOUT_S = 600.0
"""Large models take minutes to load."""
ANSWER_TIMEOUT_S = 30.0
"""No caller waits longer (`Limits.ask_s`): what takes more hangs."""


class TeacherDiedError(TeacherError):
    """The teacher's process ended, hung, or said what it should not."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"the teacher that devices ask: {self.found}; expected an answer; its log is the orchestrator's, which starts it again"


class TeacherSilentError(TeacherError):
    """The teacher says why it has no answer now, to anything. Its process lives on, if it had started."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"the teacher that devices ask: {self.found}; expected an answer; devices answer by themselves meanwhile"


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What is known of a teacher that is up."""

    classes: tuple[str, ...]
    fingerprint: str
    kind: str
    """Of its inputs: `text` or `floats`."""


class TeacherEnd(Protocol):
    """What answers questions; a test may put its own in place of a process."""

    @property
    def alive(self) -> bool: ...
    def start(self) -> TeacherFacts: ...
    def ask(self, questions: Sequence[Question]) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


class TeacherProcess:
    """One teacher: `start`, `ask`, `close`. Never a second `start`."""

    def __init__(self, run: Path, environment: Mapping[str, str]) -> None:
        self._run, self._environment = run, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._peer, self._theirs = socket.socketpair()
        self._classes = 0
        self._asking, self._ending = threading.Lock(), threading.Lock()
        self._closed = False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> TeacherFacts:
        """Start the process and wait until its teacher is loaded. Raises TeacherDiedError, TeacherSilentError."""
        with self._asking:
            self._launch()
            self._peer.settimeout(START_TIMEOUT_S)
            frame = self._receive()
            if frame.kind != Kind.READY:
                raise TeacherSilentError(bytes(frame.payload).decode(errors="replace"))
            self._peer.settimeout(ANSWER_TIMEOUT_S)
            facts = _facts(frame)
            self._classes = len(facts.classes)
            return facts

    def ask(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """Probabilities [B, K] for questions of one shape; a row of NaN is an input that the teacher has no answer to.

        Raises TeacherDiedError, TeacherSilentError.
        """
        with self._asking:
            try:
                send_frame(self._peer, Kind.RUN, pack(questions), rows=len(questions), width=shape_of(questions[0]))
            except OSError as error:
                raise TeacherDiedError(f"its process has ended ({type(error).__name__})") from error
            frame = self._receive()
        if frame.kind == Kind.ERROR:
            raise TeacherSilentError(bytes(frame.payload).decode(errors="replace"))
        expected = (Kind.ANSWER, len(questions), self._classes, 4 * len(questions) * self._classes)
        if (frame.kind, frame.rows, frame.width, len(frame.payload)) != expected:
            raise TeacherDiedError(f"it answered {frame.rows} x {frame.width} to {len(questions)} questions of {self._classes} classes")
        return np.frombuffer(frame.payload, dtype="<f4").reshape(frame.rows, frame.width)

    def close(self) -> None:
        """End the process, at once, and all that it started. A second call does nothing."""
        with self._ending:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)  # wakes who waits, even where something that the teacher started holds the other end
            if self._process is not None:
                if self._process.poll() is None:  # or its number may be another's by now
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                if self._process.stdin is not None:
                    self._process.stdin.close()
        with self._asking:
            self._peer.close()
            self._theirs.close()

    def _launch(self) -> None:
        # -P: a `workers/` in the working folder must not stand in front of ours.
        program = [sys.executable, "-P", "-m", "workers.orchestrator.teacher_worker"]
        here = str(Path(next(iter(workers.__path__))).parent)
        path = os.pathsep.join(part for part in (here, self._environment.get("PYTHONPATH", "")) if part)
        environment = {**self._environment, "PYTHONPATH": path}
        opt_out(environment)
        with self._ending:
            if self._closed:
                raise TeacherDiedError("it is no longer wanted")
            try:
                self._process = subprocess.Popen(
                    [*program, str(self._theirs.fileno()), str(self._run)],
                    stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                    stdout=subprocess.DEVNULL,
                    pass_fds=[self._theirs.fileno()],
                    env=environment,
                    process_group=0,
                )
            except OSError as error:  # no memory, no descriptors
                raise TeacherDiedError(f"its process does not start: {error}") from error
            self._theirs.close()

    def _receive(self) -> Frame:
        try:
            return receive_frame(self._peer)
        except TimeoutError as error:
            raise TeacherDiedError(f"no answer within {self._peer.gettimeout()} s") from error
        except (EOFError, OSError, ValueError) as error:
            raise TeacherDiedError("its process has ended") from error


def _facts(frame: Frame) -> TeacherFacts:
    """Raises TeacherDiedError."""
    try:
        told = json.loads(frame.payload)
        if told["version"] != VERSION:
            raise ValueError(told["version"])
        return TeacherFacts(classes=tuple(told["classes"]), fingerprint=str(told["teacher"]), kind=str(told["kind"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TeacherDiedError(f"it does not say what it is ({type(error).__name__})") from error


def without_secrets(environment: Mapping[str, str], keys: Path) -> dict[str, str]:
    """What a teacher may see of the orchestrator's environment: nothing that opens keys (`keys` has the online ones) or the database."""
    hidden = set[str]().union(*(variables_of(keys.parent, owner) for owner in OWNERS))
    return {name: value for name, value in environment.items() if name not in hidden and not name.startswith("PG")}
