"""The operator's side of the orchestrator: blocking calls with time limits and clear errors, for the driver and the CLI.

Every call may be repeated. `wait_ready` is for the start of a run: it asks until the orchestrator answers.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from pipeline.errors import FleetError
from pipeline.rollout.events import Event
from pipeline.rollout.steering import Action
from pipeline.rollout.targeting import Reach
from workers.orchestrator.enrolment_file import write_enrolment
from workers.orchestrator.operator_file import read_operator_file
from workers.orchestrator.pki import operator_credentials
from workers.orchestrator.ports import read_ports
from workers.orchestrator.views import (
    BrokenView,
    DeviceView,
    FleetView,
    PlanView,
    RolloutView,
    broken_view,
    device_view,
    event_of,
    plan_view,
    rollout_view,
)
from workers.orchestrator.wishes import Wish
from workers.rpc import fleet_pb2, fleet_pb2_grpc

CALL_S = 10.0
PUBLISH_S = 300.0
CHUNK_BYTES = 256 * 1024
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class OrchestratorUnreachableError(FleetError):
    """Nobody answers at the orchestrator's operator port."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"orchestrator at {self.address}: {self.reason}; expected an answer; `kdpipe status DIR` shows whether it runs"


class OrchestratorRefusedError(FleetError):
    """The orchestrator understood and refused; `code` is gRPC's name of the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason

    def __str__(self) -> str:
        return self.reason


class RolloutEndedError(FleetError):
    """A rollout that was followed did not complete."""

    def __init__(self, rollout_id: str, state: str, reason: str) -> None:
        super().__init__(rollout_id, state, reason)
        self.rollout_id, self.state, self.reason = rollout_id, state, reason

    def __str__(self) -> str:
        return (
            f"rollout {self.rollout_id}: {self.state}, {self.reason}; expected it to complete; "
            "`kdpipe rollout show FLEET ROLLOUT --events` says how it came to that"
        )


class Operator:
    """A connection with an operator's certificate. Close it, or use it as a context manager."""

    def __init__(self, *, address: str, ca_pem: bytes, key_pem: bytes, certificate_pem: bytes) -> None:
        self._address, self.ca_pem = address, ca_pem
        credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, certificate_pem)
        options = (
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        )
        self._channel = grpc.secure_channel(address, credentials, options=options)
        self._stub = fleet_pb2_grpc.OperatorStub(self._channel)

    @classmethod
    def open(cls, fleet_dir: Path, *, host: str = "127.0.0.1") -> Self:
        """The operator of the orchestrator whose folder this is. Raises OrchestratorUnreachableError, PkiBrokenError."""
        port = read_ports(fleet_dir).operator
        if port == 0:
            raise OrchestratorUnreachableError(str(fleet_dir), "it never started here (no ports.json)")
        ca_pem, credentials = operator_credentials(fleet_dir / "pki")
        return cls(address=f"{host}:{port}", ca_pem=ca_pem, key_pem=credentials.key_pem, certificate_pem=credentials.certificate_pem)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The operator whose file this is. Raises OperatorFileError."""
        read = read_operator_file(path)
        pair = read.credentials
        return cls(address=read.endpoint, ca_pem=read.ca_pem, key_pem=pair.key_pem, certificate_pem=pair.certificate_pem)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def wait_ready(self, *, timeout_s: float = 10.0) -> None:
        """Return once the orchestrator answers. Raises OrchestratorUnreachableError."""
        request = fleet_pb2.GetFleetRequest(page_size=1)
        self._call(self._stub.GetFleet, request, timeout_s=timeout_s, wait_for_ready=True)

    @property
    def host(self) -> str:
        """The orchestrator's name, as this operator reaches it."""
        return self._address.rpartition(":")[0]

    def create_tokens(self, population: str, *, count: int = 1, valid_s: float = 86_400.0) -> list[str]:
        """Fresh single-use enrolment tokens."""
        return list(self.admit(population, count=count, valid_s=valid_s).tokens)

    def admit(self, population: str, *, count: int, valid_s: float = 86_400.0) -> fleet_pb2.CreateTokenResponse:
        """Fresh single-use enrolment tokens, and the ports that devices need beside them."""
        request = fleet_pb2.CreateTokenRequest(population=population, valid_s=valid_s, count=count)
        admission: fleet_pb2.CreateTokenResponse = self._call(self._stub.CreateToken, request)
        return admission

    def publish(self, release_metadata: bytes, bundle: Path | None = None) -> int:
        """Send signed metadata and a file that it names, a bundle or a delta; returns the snapshot version. Again changes nothing."""
        return int(self._call(self._stub.Publish, _parts(release_metadata, bundle), timeout_s=PUBLISH_S).snapshot_version)

    def create_rollout(
        self,
        rollout_id: str,
        *,
        population: str,
        target: str,
        waves: Sequence[Reach],
        soak_s: float,
        deadline_s: float,
        **more: Any,
    ) -> RolloutView:
        """Create a rollout in DRAFT; the same id with the same content again returns it as it is now. `more` as in `Wish`."""
        wish = Wish(
            rollout_id=rollout_id,
            population=population,
            target=target,
            waves=tuple(waves),
            soak_s=soak_s,
            deadline_s=deadline_s,
            **more,
        )
        return self.create(wish)

    def create(self, wish: Wish) -> RolloutView:
        """Create a rollout in DRAFT; the same wish again returns it as it is now."""
        return rollout_view(self._call(self._stub.CreateRollout, wish.to_message()).rollout)

    def plan(self, wish: Wish) -> PlanView:
        """A dry run: whom it would reach, and when. Changes nothing."""
        return plan_view(self._call(self._stub.PlanRollout, fleet_pb2.PlanRolloutRequest(order=wish.to_message())))

    def approve(self, rollout_id: str) -> RolloutView:
        return self.control(rollout_id, Action.APPROVE)

    def control(self, rollout_id: str, action: Action) -> RolloutView:
        """Approve, pause, resume or abort. An action that is done already is no error."""
        request = fleet_pb2.ControlRolloutRequest(rollout_id=rollout_id, action=f"ROLLOUT_ACTION_{action.name}")
        return rollout_view(self._call(self._stub.ControlRollout, request).rollout)

    def get_rollout(self, rollout_id: str) -> RolloutView:
        request = fleet_pb2.GetRolloutRequest(rollout_id=rollout_id)
        return rollout_view(self._call(self._stub.GetRollout, request).rollout)

    def events(self, rollout_id: str) -> list[Event]:
        """A rollout's whole log, not checked. Raises RolloutLogBrokenError for an event that does not read."""
        events: list[Event] = []
        while True:
            request = fleet_pb2.GetRolloutEventsRequest(rollout_id=rollout_id, after_sequence=len(events))
            page = self._call(self._stub.GetRolloutEvents, request)
            events += (event_of(rollout_id, event) for event in page.events)
            if page.is_last or not page.events:
                return events

    def label(self, device_id: str, *, put: Sequence[str] = (), remove: Sequence[str] = ()) -> DeviceView:
        """Give a device labels (`name=value`), or take names away."""
        request = fleet_pb2.LabelDeviceRequest(device_id=device_id, set=put, remove=remove)
        return device_view(self._call(self._stub.LabelDevice, request).device)

    def get_fleet(self) -> FleetView:
        """Every device, page by page, and the rollouts."""
        devices: list[DeviceView] = []
        rollouts: list[RolloutView] = []
        broken: list[BrokenView] = []
        request = fleet_pb2.GetFleetRequest()
        while True:
            page = self._call(self._stub.GetFleet, request)
            devices += map(device_view, page.devices)
            rollouts += map(rollout_view, page.rollouts)
            broken += map(broken_view, page.broken_rollouts)
            if not page.next_after_device_id:
                return FleetView(devices=devices, rollouts=rollouts, broken=broken)
            request = fleet_pb2.GetFleetRequest(after_device_id=page.next_after_device_id)

    def revoke(self, device_id: str) -> None:
        """Refuse this device from its next call on."""
        request = fleet_pb2.RevokeDeviceRequest(device_id=device_id)
        self._call(self._stub.RevokeDevice, request)

    def revoke_operator(self, name: str) -> None:
        """Refuse operators of this name from their next call on."""
        self._call(self._stub.RevokeOperator, fleet_pb2.RevokeOperatorRequest(name=name))

    def _call(self, method: Callable[..., Any], request: object, *, timeout_s: float = CALL_S, wait_for_ready: bool = False) -> Any:
        try:
            return method(request, timeout=timeout_s, wait_for_ready=wait_for_ready)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise OrchestratorUnreachableError(self._address, details or code.name.lower()) from error
            raise OrchestratorRefusedError(code.name, details or code.name.lower()) from error


def enrolment_files(operator: Operator, paths: Sequence[Path], *, host: str, population: str, root: bytes) -> None:
    """Write these enrolment files, mode 0600, each with a token of its own. Devices reach the orchestrator as `host`."""
    admission = operator.admit(population, count=len(paths))
    for path, token in zip(paths, admission.tokens, strict=True):
        write_enrolment(
            path,
            endpoint_enrolment=f"{host}:{admission.enrolment_port}",
            endpoint_fleet=f"{host}:{admission.fleet_port}",
            ca_pem=operator.ca_pem,
            root=root,
            token=token,
        )


def _parts(release_metadata: bytes, bundle: Path | None) -> Iterator[fleet_pb2.PublishRequest]:
    yield fleet_pb2.PublishRequest(release_metadata=release_metadata)
    if bundle is None:
        return
    with bundle.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield fleet_pb2.PublishRequest(chunk=chunk)
