"""The process that holds a model: onnxruntime, one thread, one request at a time.

Started by `model_process` with a socket's descriptor, a graph, the name and kind of its input and a bound on memory; ends when the socket
does, so it never outlives its agent. A process of its own because onnxruntime does not give memory back, and because a graph may crash.
It is the first to go where memory is short, and ends itself where the model leaks. Imports numpy and onnxruntime only.
"""

import contextlib
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from workers.frames import HEADER, Head, Kind, fill, receive_head, send_frame

LEAKED = 81
"""Exit code of a worker whose memory went beyond its bound."""
LOOK_EVERY = 64
"""Answers between two looks at the memory; a look takes some 10 us."""
_LAST_TO_STAY = "800"
"""Of 1000: the kernel ends the model before the agent, which starts it again."""
_MAPPED_BYTES = 512 << 20
"""What onnxruntime maps and hardly touches."""


def open_session(graph: str) -> onnxruntime.InferenceSession:
    """A session as every device runs it; the gate measures with the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])


class Answerer:
    """From a decoded request to the bytes of its answer. Requests of one shape use the same memory again."""

    def __init__(self, session: onnxruntime.InferenceSession, input_name: str, kind: str) -> None:
        self._run, self._input_name = session.run, input_name
        self._outputs = [session.get_outputs()[0].name]
        self._dtype = np.dtype(np.uint8) if kind == "text" else np.dtype("<f4")
        self._shape = (0, 0)
        self._feed: dict[str, Any] = {}
        self._view = memoryview(b"")

    def room(self, rows: int, width: int) -> memoryview:
        """Where the payload of a request goes. Good until the next call."""
        if (rows, width) != self._shape:
            batch = np.empty((rows, width), dtype=self._dtype)
            self._shape, self._feed = (rows, width), {self._input_name: batch}
            self._view = batch.data.cast("B") if batch.size else memoryview(b"")
        return self._view

    def answer(self) -> bytes:
        """Run what is in the room. Raises whatever onnxruntime raises."""
        started = time.perf_counter()
        logits = self._run(self._outputs, self._feed)[0]
        seconds = time.perf_counter() - started
        rows, width = logits.shape
        data: bytes = (logits if logits.dtype == "<f4" else logits.astype("<f4")).tobytes()
        return HEADER.pack(Kind.ANSWER, rows, width, seconds, len(data)) + data


def serve(peer: socket.socket, graph: str, input_name: str, kind: str, limit_bytes: int) -> None:
    """Answer until the peer is gone. An input that the graph refuses is an ERROR frame, not an end."""
    try:
        answerer = Answerer(open_session(graph), input_name, kind)
    except Exception as error:  # noqa: BLE001 - a process boundary: whatever onnxruntime raises, the agent must hear it
        _say(peer, error)
        return
    send_frame(peer, Kind.READY)
    answers = 0
    while True:
        try:
            head = receive_head(peer)
        except EOFError:
            return
        if head.kind == Kind.MEMORY:
            send_frame(peer, Kind.ANSWER, rows=1, seconds=float(memory_bytes()))
        else:
            _answer(peer, answerer, head)
            answers += 1
            if answers % LOOK_EVERY == 0 and memory_bytes() > limit_bytes:
                os._exit(LEAKED)  # at once: somebody waits for the next answer


def bound_memory(limit_bytes: int) -> None:
    """Let no single allocation take the machine down: beyond the bound onnxruntime raises. Does nothing where the system has no bound."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        Path("/proc/self/oom_score_adj").write_text(_LAST_TO_STAY)
    with contextlib.suppress(OSError, ValueError, IndexError):
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = mapped + limit_bytes + _MAPPED_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def memory_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: list[str]) -> None:
    descriptor, graph, input_name, kind, limit_bytes = arguments
    bound_memory(int(limit_bytes))
    with socket.socket(fileno=int(descriptor)) as peer:
        serve(peer, graph, input_name, kind, int(limit_bytes))


def _answer(peer: socket.socket, answerer: Answerer, head: Head) -> None:
    room = answerer.room(head.rows, head.width)
    if len(room) != head.length:
        raise ValueError(f"{head.length} bytes for {head.rows} rows of {head.width}")
    fill(peer, room)
    try:
        answer = answerer.answer()
    except Exception as error:  # noqa: BLE001 - as above
        _say(peer, error)
    else:
        peer.sendall(answer)


def _say(peer: socket.socket, error: Exception) -> None:
    send_frame(peer, Kind.ERROR, f"{type(error).__name__}: {error}"[:2000].encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
