"""The process that holds a teacher and answers the questions of devices, one batch after the other.

Started by `teacher_process` with a socket's descriptor and a run file (or a run's folder); ends when the socket or its standard input
does, so it never outlives its orchestrator. A process of its own, because what teachers are made of takes seconds to import and much
memory, and may crash, hang or leak; it is the first to go where memory is short, and gives way where processors are.

An input that the teacher fails on is found by halving the batch, and is its asker's alone: its row of the answer is NaN. Of inputs
nothing is kept, and nothing is logged: what a teacher raises may quote them, so only the name of the error is.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import RunFile, load
from pipeline.errors import KdpipeError
from pipeline.files import read_bounded
from pipeline.labels.evidence import faults
from pipeline.teachers import Teacher, TeacherOutputError, load_teacher
from pipeline.teachers.teacher import TeacherUnavailableError, batches_of
from workers.frames import Frame, Kind, receive_frame, send_frame
from workers.logs import log_as_json
from workers.orchestrator.question import TEXT
from workers.orchestrator.teacher_process import VERSION
from workers.threads import loading, use_threads

MAX_RUN_FILE_BYTES = 2**20
NICENESS = 5
_FIRST_TO_GO = "800"
"""Of 1000: the kernel ends the teacher before the orchestrator, which starts it again."""

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    descriptor, run = arguments
    log_as_json(sys.stderr)
    give_way()
    threading.Thread(target=_end_with_parent, name="stdin-watch", daemon=True).start()
    os.set_inheritable(int(descriptor), False)
    with socket.socket(fileno=int(descriptor)) as peer:
        serve(peer, lambda: open_teacher(Path(run)))


def serve(peer: socket.socket, open_one: Callable[[], tuple[Teacher, str, int]]) -> None:
    """Answer until the peer is gone. A teacher that does not load, or does not answer now, is an ERROR frame."""
    try:
        teacher, kind, rows = open_one()
    except Exception as error:  # noqa: BLE001 the user's code, at a process boundary
        _say(peer, error if isinstance(error, KdpipeError) else f"it raised {type(error).__name__}; expected a teacher that loads")
        return
    ready = {"version": VERSION, "classes": list(teacher.classes), "teacher": teacher.fingerprint, "kind": kind}
    send_frame(peer, Kind.READY, json.dumps(ready).encode())
    while True:
        try:
            frame = receive_frame(peer)
        except EOFError:
            return
        try:
            probabilities_BK = answers(teacher, inputs_of(frame), rows=rows)
        except TeacherUnavailableError as error:
            _say(peer, f"teacher at {error.where}: no answer; expected one; ask it by hand")  # what it said may quote an input
        except TeacherOutputError as error:
            _say(peer, error)
        else:
            payload = probabilities_BK.astype("<f4").tobytes()
            send_frame(peer, Kind.ANSWER, payload, rows=len(probabilities_BK), width=len(teacher.classes))


def open_teacher(where: Path) -> tuple[Teacher, str, int]:
    """The teacher of a run file, or of a run's folder; the kind of its inputs; how many it is given at once."""
    run, base = _run_of(where)
    use_threads(run.teacher.threads)  # before anything brings torch along
    with loading():
        teacher = load_teacher(run.teacher, classes=run.classes, base=base)
    return teacher, run.stream.kind, run.teacher.batch_rows


def inputs_of(frame: Frame) -> Any:
    """The questions as an Arrow array of the type that sources give."""
    if frame.width == TEXT:
        lengths = np.frombuffer(frame.payload, dtype="<u4", count=frame.rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.StringArray.from_buffers(frame.rows, pa.py_buffer(offsets), pa.py_buffer(frame.payload)[lengths.nbytes :])
    offsets = np.arange(frame.rows + 1, dtype=np.int32) * np.int32(frame.width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.frombuffer(frame.payload, dtype="<f4")))


def answers(teacher: Teacher, inputs: Any, *, rows: int) -> NDArray[np.float32]:
    """Probabilities [B, K]; a row of NaN where the teacher fails on that input.

    Raises TeacherUnavailableError, and TeacherOutputError where it fails on all of them by what it answers: no input is to blame for that.
    """
    probabilities_BK = np.full((len(inputs), len(teacher.classes)), np.nan, dtype=np.float32)
    waiting = [np.arange(len(inputs))[places] for places in _batches(teacher, inputs, rows)]
    failed: list[Exception] = []
    while waiting:
        places = waiting.pop()
        try:
            log_probs_BK = teacher.log_probs(_at(inputs, places))
        except TeacherUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 the teacher may be the user's code; whatever it raises is a fact about the inputs
            if len(places) == 1:
                failed.append(error)
            else:
                waiting += [places[len(places) // 2 :], places[: len(places) // 2]]
            continue
        fine = np.setdiff1d(np.arange(len(places)), list(faults(log_probs_BK)))
        probs_BK = np.exp(log_probs_BK[fine])
        probabilities_BK[places[fine]] = probs_BK / probs_BK.sum(axis=1, keepdims=True)
    if len(failed) == len(inputs) and isinstance(failed[0], TeacherOutputError):
        raise failed[0]
    if failed:
        log.info("the teacher failed on questions", extra={"errors": Counter(type(error).__name__ for error in failed)})
    return probabilities_BK


def give_way() -> None:
    """What devices sync with goes before what they ask."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


def _at(inputs: Any, places_P: NDArray[np.int64]) -> Any:
    """Those of the inputs; a view where they lie one behind the other, which they nearly always do."""
    if (np.diff(places_P) == 1).all():
        return inputs.slice(int(places_P[0]), len(places_P))
    return inputs.take(pa.array(places_P))


def _batches(teacher: Teacher, inputs: Any, rows: int) -> list[NDArray[np.int64]]:
    try:
        return list(batches_of(teacher, inputs, rows))
    except TeacherUnavailableError:
        raise
    except Exception:  # noqa: BLE001 an input that cannot be sorted is found by halving, like one that cannot be answered
        return [np.arange(len(inputs))]


def _run_of(where: Path) -> tuple[RunFile, Path]:
    """The run file, and where its relative paths begin. Raises ConfigError."""
    if where.is_dir():  # with what `--set` said, and for recipes, too
        origin = json.loads(read_bounded(where / "origin.json", MAX_RUN_FILE_BYTES))
        return RunFile.model_validate_json(json.dumps(origin["run"])), Path(origin["base"])
    return load(read_bounded(where, MAX_RUN_FILE_BYTES).decode(), where=str(where)), where.parent.resolve()


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)  # what the teacher started goes, too; it may hang where no other signal is heard


def _say(peer: socket.socket, what: object) -> None:
    send_frame(peer, Kind.ERROR, str(what)[:2000].encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
