"""The agent's end of a model worker: start it, ask it, notice that it died, end it.

Safe to call from several threads; one request is under way at a time. Whether and when to start another is `serving`'s.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import workers
from pipeline.errors import DeviceError
from pipeline.rollout.device import memory_limit_bytes
from pipeline.rollout.slots import Slot
from workers.frames import Frame, Kind, receive_frame, send_frame
from workers.privacy import opt_out

START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 20.0
EXIT_S = 0.2


class ModelDiedError(DeviceError):
    """The model worker ended or hung while it was starting or answering."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(digest, found)
        self.digest, self.found = digest, found

    def __str__(self) -> str:
        return f"model {self.digest[:12]}: {self.found}; expected an answer; the agent starts it again"


class ModelRefusedError(DeviceError):
    """The graph does not load, or does not take this input. The worker lives on, if it had started."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(digest, found)
        self.digest, self.found = digest, found

    def __str__(self) -> str:
        return f"model {self.digest[:12]}: {self.found}; expected a graph that runs in this onnxruntime and an input that fits it"


@dataclass(frozen=True, kw_only=True)
class Logits:
    """Rows of logits and the time the graph took."""

    logits_BK: NDArray[np.float32]
    run_s: float


class ModelProcess:
    """One running model worker."""

    def __init__(self, slot: Slot, process: subprocess.Popen[bytes], peer: socket.socket) -> None:
        self.slot = slot
        self._process, self._peer, self._lock = process, peer, threading.Lock()
        self._dead = False

    @classmethod
    def start(cls, slot: Slot, niceness: int = 0) -> "ModelProcess":
        """Start a worker on a verified slot and wait until its graph is loaded. Raises ModelDiedError, ModelRefusedError."""
        ours, theirs = socket.socketpair()
        ours.settimeout(START_TIMEOUT_S)
        spec = slot.manifest.input
        # -P: a `workers/` in the working folder must not stand in front of ours.
        program = [sys.executable, "-P", "-m", "workers.edge.model_worker"]
        command = [*program, str(theirs.fileno()), str(slot.graph.resolve()), spec.name, spec.kind]
        command.append(str(memory_limit_bytes(slot.manifest.memory_bytes)))
        here = str(Path(next(iter(workers.__path__))).parent)
        path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH", "")) if part)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        opt_out(environment)
        try:
            with theirs:
                nothing = subprocess.DEVNULL
                process = subprocess.Popen(
                    command, stdin=nothing, stdout=nothing, pass_fds=[theirs.fileno()], env=environment, process_group=0
                )
        except OSError as error:  # no memory, no descriptors
            ours.close()
            raise ModelDiedError(slot.digest, f"its process does not start: {error}") from error
        model = cls(slot, process, ours)
        try:
            if niceness:
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
            frame = model._receive()
            if frame.kind != Kind.READY:
                raise ModelRefusedError(slot.digest, bytes(frame.payload).decode(errors="replace"))
        except BaseException:
            model.close()
            raise
        ours.settimeout(ANSWER_TIMEOUT_S)
        return model

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._dead and self._process.poll() is None

    def run(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> Logits:
        """Logits of a C-contiguous [B, width] batch. Raises ModelDiedError, ModelRefusedError."""
        rows, width = batch.shape
        frame = self._ask(Kind.RUN, batch.data.cast("B") if batch.size else b"", rows=rows, width=width)
        logits = np.frombuffer(frame.payload, dtype="<f4").reshape(frame.rows, frame.width)
        return Logits(logits_BK=logits, run_s=frame.seconds)

    def memory_bytes(self) -> int:
        """Resident memory of the worker. Raises ModelDiedError."""
        return int(self._ask(Kind.MEMORY).seconds)

    def close(self) -> None:
        """End the worker, at once."""
        self._dead = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._peer.close()

    def _ask(self, kind: Kind, payload: bytes | memoryview = b"", *, rows: int = 0, width: int = 0) -> Frame:
        with self._lock:
            if self._dead:
                raise ModelDiedError(self.slot.digest, "its process has ended")
            try:
                send_frame(self._peer, kind, payload, rows=rows, width=width)
            except OSError as error:
                raise self._death(f"its process has ended ({type(error).__name__})") from error
            frame = self._receive()
        if frame.kind == Kind.ERROR:
            raise ModelRefusedError(self.slot.digest, bytes(frame.payload).decode(errors="replace"))
        return frame

    def _receive(self) -> Frame:
        try:
            return receive_frame(self._peer)
        except TimeoutError as error:
            raise self._death(f"no answer within {self._peer.gettimeout()} s", hung=True) from error
        except (EOFError, OSError, ValueError) as error:
            raise self._death("its process has ended") from error

    def _death(self, found: str, *, hung: bool = False) -> ModelDiedError:
        """After a lost or late answer the stream is out of step: the worker must go."""
        self._dead = True
        if not hung:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_S)  # it is on its way out: its own exit code says more than our kill
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        code = self._process.wait()
        return ModelDiedError(self.slot.digest, f"{found}, exit code {code}")
