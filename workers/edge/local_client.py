"""Asking a device on this machine: what `kdpipe edge predict` and the driver use. Bounded in bytes and seconds."""

import http.client
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import DeviceError
from workers.edge.folder import DeviceFolder
from workers.edge.inputs import Input
from workers.edge.local_api import reachable

MAX_ANSWER_BYTES = 64 << 20
TIMEOUT_S = 60.0


class DeviceSilentError(DeviceError):
    """No agent answers in this folder."""

    def __init__(self, folder: str, found: str) -> None:
        super().__init__(folder, found)
        self.folder, self.found = folder, found

    def __str__(self) -> str:
        return f"{self.folder}: no agent answers ({self.found}); expected one that runs; `kdpipe edge run --dir {self.folder}` starts it"


class DeviceRefusedError(DeviceError):
    """The device could not answer a request."""

    def __init__(self, status: int, says: str) -> None:
        super().__init__(status, says)
        self.status, self.says = status, says

    def __str__(self) -> str:
        return f"device: {self.says} (HTTP {self.status}); expected an answer; `kdpipe edge status DEVICE_DIR` says what it does"


class LocalDevice:
    """A connection to the agent of a device's folder, kept open between calls. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connection = _UnixConnection(DeviceFolder(folder).socket)

    def predict(self, inputs: Sequence[Input]) -> dict[str, Any]:
        """The answer as `local_api` describes it. Raises DeviceSilentError, DeviceRefusedError."""
        body = json.dumps({"inputs": [v if isinstance(v, str) else list(v) for v in inputs]}).encode()
        return self._call("POST", "/predict", body)

    def status(self) -> dict[str, Any]:
        """Raises DeviceSilentError."""
        return self._call("GET", "/status", None)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = self._connection.getresponse()
            data = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise DeviceSilentError(str(self._folder), f"{type(error).__name__}") from error
        tree: dict[str, Any] = json.loads(data)
        if response.status != http.client.OK:
            raise DeviceRefusedError(response.status, str(tree.get("says", "")))
        return tree


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        with reachable(self._path) as address:
            self.sock.connect(address)
