"""The local prediction API: HTTP and JSON over a unix socket that only the device's owner can open.

    POST /predict {"inputs": [...]}   -> classes, predictions, probabilities, digest, student, release, latency_ms
    GET  /status                      -> what the device runs and does

`LocalApi` decides, without a socket; `LocalServer` is the shell. Sizes, rows, connections and idle time are bounded. Answering goes on
while a release is downloaded, shadowed, tried or taken back.
"""

import contextlib
import json
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.inputs import InputShapeError
from workers.edge.metrics import EdgeMetrics
from workers.edge.model_process import ModelDiedError, ModelRefusedError
from workers.edge.serving import NoModelError, Serving

MAX_BODY_BYTES = 4 << 20
MAX_ROWS = 1024
MAX_CONNECTIONS = 32
IDLE_S = 30.0
SHORT_PATH_BYTES = 100
"""A unix socket's path fits in 108 bytes; longer ones go through a descriptor of their folder."""


class LocalApi:
    """Turns request bodies into answers."""

    def __init__(self, serving: Serving, *, status: Callable[[], dict[str, Any]], metrics: EdgeMetrics) -> None:
        self._serving, self._status, self._metrics = serving, status, metrics

    def status(self) -> tuple[HTTPStatus, dict[str, Any]]:
        return HTTPStatus.OK, self._status()

    def predict(self, body: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
        """Answer one request. Every failure is a status and one line that says what to do."""
        started = time.perf_counter()
        try:
            inputs = _parse(body)
        except ValueError as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, "invalid", str(error))
        try:
            answer = self._serving.predict(inputs)
        except NoModelError as error:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "no_model", str(error))
        except InputShapeError as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, "invalid", str(error))
        except (ModelDiedError, ModelRefusedError) as error:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "model_failed", str(error))
        manifest = answer.slot.manifest
        if not np.isfinite(answer.probabilities_BK).all():
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "model_failed", "the model answered with something that is not a number")
        latency_s = time.perf_counter() - started
        self._metrics.predicted("ok", len(inputs), latency_s)
        return HTTPStatus.OK, {
            "classes": list(manifest.classes),
            "predictions": [manifest.classes[k] for k in answer.probabilities_BK.argmax(axis=1)],
            "probabilities": answer.probabilities_BK.tolist(),
            "digest": answer.slot.digest,
            "student": manifest.student,
            "release": manifest.release,
            "latency_ms": latency_s * 1000,
            "model_ms": answer.run_s * 1000,
        }

    def busy(self) -> tuple[HTTPStatus, dict[str, Any]]:
        return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"more than {MAX_CONNECTIONS} connections; close some and try again")

    def _refuse(self, status: HTTPStatus, outcome: str, says: str) -> tuple[HTTPStatus, dict[str, Any]]:
        self._metrics.predicted(outcome, 0, 0.0)
        return status, {"error": outcome, "says": says}


class LocalServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on `path`, mode 0600, in threads. `close` stops it and removes the socket."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path, api: LocalApi) -> None:
        self.api, self._path = api, path
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        path.unlink(missing_ok=True)
        with reachable(path) as address:
            super().__init__(address, _Request)
        path.chmod(0o600)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="local-api", daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._path.unlink(missing_ok=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        status, tree = self.api.busy()
        with contextlib.suppress(OSError):
            request.sendall(_response(status, tree, close=True))
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is nobody's trouble."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: LocalServer

    def do_GET(self) -> None:
        if self.path == "/status":
            self._answer(*self.server.api.status())
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "unknown", "says": "expected POST /predict or GET /status"})

    def do_POST(self) -> None:
        if self.path != "/predict":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "unknown", "says": "expected POST /predict or GET /status"}, close=True)
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            says = "no Content-Length; expected one"
            self._answer(HTTPStatus.LENGTH_REQUIRED, {"error": "invalid", "says": says}, close=True)
        elif int(length) > MAX_BODY_BYTES:
            says = f"a body of {length} bytes; expected at most {MAX_BODY_BYTES}; send fewer inputs at once"
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "invalid", "says": says}, close=True)
        else:
            self._answer(*self.server.api.predict(self.rfile.read(int(length))))

    def log_message(self, format: str, *args: Any) -> None:
        """Metrics count requests; their content is private."""

    def _answer(self, status: HTTPStatus, tree: dict[str, Any], *, close: bool = False) -> None:
        self.close_connection = self.close_connection or close
        self.wfile.write(_response(status, tree, close=self.close_connection))


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """An address for `bind` or `connect` that fits, however long the path is. Good while the context is open."""
    if len(os.fsencode(path)) <= SHORT_PATH_BYTES:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def _parse(body: bytes) -> list[Any]:
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON; expected {{'inputs': [...]}}: {error}"[:200]) from error
    if not isinstance(tree, dict) or set(tree) != {"inputs"} or not isinstance(tree["inputs"], list):
        raise ValueError('expected {"inputs": [...]} and nothing else')
    if not 1 <= len(tree["inputs"]) <= MAX_ROWS:
        raise ValueError(f"{len(tree['inputs'])} inputs; expected 1 to {MAX_ROWS}")
    return tree["inputs"]


def _response(status: HTTPStatus, tree: dict[str, Any], *, close: bool) -> bytes:
    body = json.dumps(tree, separators=(",", ":")).encode()
    retry = "Retry-After: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{retry}Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + body
