"""The local prediction API: `kdpipe.local.v1`, gRPC over a unix socket that only the device's owner can open.

`LocalApi` decides, without a socket; `LocalServer` is the shell. Sizes, rows and calls at once are bounded. Calls that come at once share a
run of the model (`serving`). Answering goes on while a release is downloaded, shadowed, tried or taken back. Where the device's owner lets
it, what the model is unsure of is asked of the teacher (`asking`); a call that waits for that takes no other call's room.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from pipeline.inputs import InputShapeError
from workers.edge.asking import MAX_UNDER_WAY, Asking, own
from workers.edge.inputs import Input
from workers.edge.metrics import EdgeMetrics
from workers.edge.model_process import ModelDiedError, ModelRefusedError
from workers.edge.serving import Answer, NoModelError, Serving
from workers.rpc import local_pb2 as pb
from workers.rpc import local_pb2_grpc as rpc

MAX_REQUEST_BYTES = 4 << 20
MAX_ROWS = 1024
MAX_CALLS = 32
"""Runs of the model under way at once; one more is told so."""
SHORT_PATH_BYTES = 100
"""A unix socket's path fits in 108 bytes; longer ones go through a descriptor of their folder."""
_SPARE_CALLS = 8
"""Beyond MAX_CALLS, for those that are refused or ask for the status."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why there is no answer."""

    code: grpc.StatusCode
    says: str


class LocalApi:
    """Turns requests into answers."""

    def __init__(
        self, serving: Serving, *, status: Callable[[], pb.GetStatusResponse], metrics: EdgeMetrics, asking: Asking | None = None
    ) -> None:
        """Without `asking` no input leaves the device."""
        self._serving, self._status, self._metrics, self._asking = serving, status, metrics, asking
        self._room = threading.BoundedSemaphore(MAX_CALLS)

    def status(self) -> pb.GetStatusResponse:
        return self._status()

    def predict(self, request: pb.PredictRequest) -> pb.PredictResponse | Refusal:
        """Answer one request. Every failure is a code and one line that says what to do."""
        started = time.perf_counter()
        inputs: list[Any] = list(request.texts) or [row.values for row in request.rows]
        if not self._room.acquire(blocking=False):
            return self._refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", f"more than {MAX_CALLS} calls at once; try again")
        try:
            answer = self._answer(request, inputs)
        finally:
            self._room.release()
        if isinstance(answer, Refusal):
            return answer
        given = own(answer) if self._asking is None else self._asking.give(inputs, answer)
        manifest = answer.slot.manifest
        latency_s = time.perf_counter() - started
        self._metrics.predicted("ok", len(inputs), latency_s)
        return pb.PredictResponse(
            classes=manifest.classes,
            predictions=[manifest.classes[k] for k in given.probabilities_BK.argmax(axis=1)],
            probabilities=[pb.Row(values=row) for row in given.probabilities_BK.tolist()],
            digest=answer.slot.digest,
            student=manifest.student,
            release=manifest.release,
            latency_ms=latency_s * 1000,
            model_ms=answer.run_s * 1000,
            by_teacher=given.by_teacher_B.tolist(),
        )

    def _answer(self, request: pb.PredictRequest, inputs: Sequence[Input]) -> Answer | Refusal:
        if not 1 <= len(inputs) <= MAX_ROWS or (request.texts and request.rows):
            found = f"{len(request.texts)} texts and {len(request.rows)} rows; expected 1 to {MAX_ROWS} of one kind"
            return self._refuse(grpc.StatusCode.INVALID_ARGUMENT, "invalid", found)
        try:
            answer = self._serving.predict(inputs)
        except NoModelError as error:
            return self._refuse(grpc.StatusCode.FAILED_PRECONDITION, "no_model", str(error))
        except InputShapeError as error:
            return self._refuse(grpc.StatusCode.INVALID_ARGUMENT, "invalid", str(error))
        except (ModelDiedError, ModelRefusedError) as error:
            return self._refuse(grpc.StatusCode.INTERNAL, "model_failed", str(error))
        if not np.isfinite(answer.probabilities_BK).all():
            return self._refuse(grpc.StatusCode.INTERNAL, "model_failed", "the model answered with something that is not a number")
        return answer

    def _refuse(self, code: grpc.StatusCode, outcome: str, says: str) -> Refusal:
        self._metrics.predicted(outcome, 0, 0.0)
        return Refusal(code=code, says=says)


class LocalServer(rpc.LocalServicer):
    """Listens on `path`, mode 0600, from `start` on. `close` ends it and removes the socket."""

    def __init__(self, path: Path, api: LocalApi) -> None:
        self._api, self._path = api, path
        self._threads = ThreadPoolExecutor(MAX_CALLS + MAX_UNDER_WAY + _SPARE_CALLS, thread_name_prefix="local-api")
        self._server = grpc.server(
            self._threads, options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.max_send_message_length", -1)]
        )
        rpc.add_LocalServicer_to_server(self, self._server)
        path.unlink(missing_ok=True)
        with reachable(path) as address:
            self._server.add_insecure_port(f"unix:{address}")
        path.chmod(0o600)

    def start(self) -> None:
        self._server.start()

    def close(self) -> None:
        self._server.stop(grace=None).wait()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._path.unlink(missing_ok=True)

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        answer = self._api.predict(request)
        if isinstance(answer, Refusal):
            context.abort(answer.code, answer.says)
        return answer

    def GetStatus(self, request: pb.GetStatusRequest, context: grpc.ServicerContext) -> pb.GetStatusResponse:
        return self._api.status()


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """An address for `bind` or `connect` that fits, however long the path is. Good while the context is open."""
    if len(os.fsencode(path)) <= SHORT_PATH_BYTES:
        yield str(path.absolute())
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
