"""Asking a device on this machine: what programs on a device, `kdpipe edge predict` and the driver use. Bounded in bytes and seconds.

with LocalDevice(Path("/var/lib/kdpipe-edge")) as device:
    answer = device.predict(["Win a prize, click here"])
    answer["predictions"], answer["probabilities"], answer["release"]
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pipeline.errors import DeviceError
from workers.edge.folder import DeviceFolder
from workers.edge.inputs import Input
from workers.edge.lines import Diet
from workers.edge.local_api import MAX_REQUEST_BYTES, reachable
from workers.rpc import local_pb2 as pb
from workers.rpc import local_pb2_grpc as rpc

MAX_ANSWER_BYTES = 64 << 20
TIMEOUT_S = 60.0
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_WIDE = frozenset(
    field.name
    for kind in (pb.GetStatusResponse, pb.Wanted, pb.Installed, pb.Input, pb.Arrival, pb.Asking)
    for field in kind.DESCRIPTOR.fields
    if field.type == field.TYPE_UINT64
)
"""Fields of a status that have 64 bits."""
_SILENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


class DeviceSilentError(DeviceError):
    """No agent answers in this folder."""

    def __init__(self, folder: str, found: str, enrolled: bool = True, run: str = "") -> None:
        super().__init__(folder, found, enrolled, run)
        self.folder, self.found, self.enrolled, self.run = folder, found, enrolled, run

    def __str__(self) -> str:
        if self.run:
            then = f"it is a device of the run in {self.run}: `kdpipe run RUNFILE --keep` starts it and leaves it running"
        elif self.enrolled:
            then = f"`kdpipe edge run --dir {self.folder}` starts it"
        else:
            then = f"`kdpipe edge enrol {self.folder} --enrolment FILE` comes first"
        return f"{self.folder}: no agent answers ({self.found}); expected one that runs; {then}"


class DeviceRefusedError(DeviceError):
    """The device could not answer a request. `code` is gRPC's."""

    def __init__(self, code: str, says: str) -> None:
        super().__init__(code, says)
        self.code, self.says = code, says

    def __str__(self) -> str:
        return f"device: {self.says} ({self.code}); expected an answer; `kdpipe edge status DEVICE_DIR` says what it does"


class LocalDevice:
    """A connection to the agent of a device's folder, kept open between calls; several threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open = folder, contextlib.ExitStack()
        with contextlib.suppress(FileNotFoundError):  # no such folder: said when it is asked
            address = self._open.enter_context(reachable(DeviceFolder(folder).socket))
            self._channel = self._open.enter_context(grpc.insecure_channel(f"unix:{address}", options=_OPTIONS))
            self._stub = rpc.LocalStub(self._channel)

    def predict(self, inputs: Sequence[Input]) -> dict[str, Any]:
        """`classes`, `predictions`, `probabilities` (a row an input), `digest`, `student`, `release`, `latency_ms`, `model_ms`, and
        `by_teacher`: of each input whether its answer is the teacher's, because the model was not sure.

        Texts, or rows of numbers. Raises DeviceSilentError, DeviceRefusedError.
        """
        answer = self._call("Predict", _request(inputs))
        return {
            "classes": list(answer.classes),
            "predictions": list(answer.predictions),
            "probabilities": [list(row.values) for row in answer.probabilities],
            "digest": answer.digest,
            "student": answer.student,
            "release": answer.release,
            "latency_ms": answer.latency_ms,
            "model_ms": answer.model_ms,
            "by_teacher": list(answer.by_teacher),
        }

    def status(self) -> dict[str, Any]:
        """What the device runs and does, as `kdpipe.local.v1.GetStatusResponse` names it. Raises DeviceSilentError."""
        answer = self._call("GetStatus", pb.GetStatusRequest())
        tree = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        return {**_absent(answer), **_numbers(tree)}

    def diet(self) -> Diet:
        """What the model that answers eats; text where none answers yet. Raises DeviceSilentError."""
        answer = self._call("GetStatus", pb.GetStatusRequest())
        return Diet(kind=answer.input.kind, width=answer.input.width) if answer.HasField("input") else Diet()

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _run(self) -> str:
        """The run whose device this is (DIR/devices/NAME), which starts it with an orchestrator beside it; empty for any other."""
        devices = self._folder.resolve().parent
        return str(devices.parent) if devices.name == "devices" and (devices.parent / "origin.json").is_file() else ""

    def _call(self, method: str, request: Any) -> Any:
        if not self._folder.is_dir() or not hasattr(self, "_stub"):
            raise DeviceSilentError(str(self._folder), "no such folder", False)
        try:
            return getattr(self._stub, method)(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            call: Any = error  # what is raised is also a grpc.Call; the stubs cannot say so
            code: grpc.StatusCode = call.code()
            if code in _SILENT:
                enrolled = DeviceFolder(self._folder).certificate.exists()
                raise DeviceSilentError(str(self._folder), code.name if enrolled else "not enrolled yet", enrolled, self._run) from error
            raise DeviceRefusedError(code.name, str(call.details())[:500]) from error


def _absent(message: Message) -> dict[str, Any]:
    """None for each part that a message may have."""
    return {field.name: None for field in message.DESCRIPTOR.fields if field.message_type is not None}


def _numbers(tree: dict[str, Any]) -> dict[str, Any]:
    """Numbers as numbers: MessageToDict writes those of 64 bits as texts."""
    return {
        key: _numbers(value) if isinstance(value, dict) else int(value) if key in _WIDE and isinstance(value, str) else value
        for key, value in tree.items()
    }


def _request(inputs: Sequence[Input]) -> pb.PredictRequest:
    """Raises DeviceRefusedError for what is neither text nor numbers."""
    try:
        if all(isinstance(value, str) for value in inputs):
            return pb.PredictRequest(texts=[str(value).encode("utf-8", "replace").decode() for value in inputs])
        return pb.PredictRequest(rows=[pb.Row(values=list(value)) for value in inputs])  # type: ignore[arg-type]  # protobuf checks
    except (TypeError, ValueError) as error:
        raise DeviceRefusedError("INVALID_ARGUMENT", f"{error}; expected texts, or rows of numbers"[:300]) from error
