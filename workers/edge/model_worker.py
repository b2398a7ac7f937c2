"""The process that holds a model: onnxruntime, one thread, one request at a time.

Started by `model_process` with a socket's descriptor, a graph, and the name and kind of its input; ends when the socket does, so it never
outlives its agent. A process of its own because onnxruntime does not give memory back, and because a graph may crash.
Imports numpy and onnxruntime only.
"""

import resource
import socket
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from workers.edge.frames import Kind, receive_frame, send_frame


def open_session(graph: str) -> onnxruntime.InferenceSession:
    """A session as every device runs it; the gate measures with the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])


def serve(peer: socket.socket, graph: str, input_name: str, kind: str) -> None:
    """Answer until the peer is gone. An input that the graph refuses is an ERROR frame, not an end."""
    try:
        session = open_session(graph)
    except Exception as error:  # noqa: BLE001 - a process boundary: whatever onnxruntime raises, the agent must hear it
        send_frame(peer, Kind.ERROR, f"{type(error).__name__}: {error}"[:2000].encode())
        return
    dtype = np.dtype(np.uint8) if kind == "text" else np.dtype("<f4")
    send_frame(peer, Kind.READY)
    while True:
        try:
            request = receive_frame(peer)
        except EOFError:
            return
        if request.kind == Kind.MEMORY:
            send_frame(peer, Kind.ANSWER, rows=1, seconds=float(memory_bytes()))
            continue
        batch = np.frombuffer(request.payload, dtype=dtype).reshape(request.rows, request.width)
        try:
            started = time.perf_counter()
            logits = np.ascontiguousarray(session.run(None, {input_name: batch})[0], dtype="<f4")
            seconds = time.perf_counter() - started
        except Exception as error:  # noqa: BLE001 - as above
            send_frame(peer, Kind.ERROR, f"{type(error).__name__}: {error}"[:2000].encode())
            continue
        rows, width = logits.shape
        send_frame(peer, Kind.ANSWER, logits.data.cast("B"), rows=rows, width=width, seconds=seconds)


def memory_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: list[str]) -> None:
    descriptor, graph, input_name, kind = arguments
    with socket.socket(fileno=int(descriptor)) as peer:
        serve(peer, graph, input_name, kind)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
