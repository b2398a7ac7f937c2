"""The device's calls to the orchestrator: gRPC, synchronous, each with a deadline and a bound on what it reads.

Translates gRPC's errors into two: unreachable (try again later) and refused (the fleet said no). Nothing that comes back is trusted
here; metadata and assignments are signed, bundles are verified by digest.
"""

import re
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from pipeline.errors import DeviceError
from workers.edge import AGENT_VERSION
from workers.rpc import fleet_pb2 as pb
from workers.rpc import fleet_pb2_grpc as rpc

CALL_TIMEOUT_S = 15.0
FETCH_TIMEOUT_S = 120.0
MAX_MESSAGE_BYTES = 6 << 20
MAX_METADATA_BYTES = 5_000_000
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 10_000),
]
_REFUSALS = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
_NOT_IN_FORCE = re.compile("certificate has expired|certificate is not yet valid")
"""As BoringSSL says it, inside gRPC's UNAVAILABLE."""


class FleetUnreachableError(DeviceError):
    """The orchestrator did not answer in time, or is overloaded. The device goes on and tries later."""

    def __init__(self, call: str, found: str) -> None:
        super().__init__(call, found)
        self.call, self.found = call, found

    def __str__(self) -> str:
        return f"{self.call}: {self.found}; expected the orchestrator to answer; the device goes on and tries again"


class FleetLateError(FleetUnreachableError):
    """No answer within the call's deadline."""


class CertificateTimeError(FleetUnreachableError):
    """By this device's clock the orchestrator's certificate is over, or has not begun: TLS looks at no other clock."""

    def __str__(self) -> str:
        return (
            f"{self.call}: by this device's clock the orchestrator's certificate is not in force ({self.found}); expected a clock that is "
            "right, or a certificate that was renewed; set the clock, and the device goes on by itself"
        )


class FleetRefusedError(DeviceError):
    """The orchestrator refused the call."""

    def __init__(self, call: str, status: str, found: str) -> None:
        super().__init__(call, status, found)
        self.call, self.status, self.found = call, status, found

    def __str__(self) -> str:
        return f"{self.call}: {self.status} ({self.found}); expected a token or certificate that is in force; ask the operator"


class EnrolmentClient:
    """Enrollment.{Enroll, Renew}: the server proves itself by the CA of the enrolment file."""

    def __init__(self, endpoint: str, ca_pem: str) -> None:
        credentials = grpc.ssl_channel_credentials(root_certificates=ca_pem.encode())
        self._channel = grpc.secure_channel(endpoint, credentials, options=_OPTIONS)
        self._stub = rpc.EnrollmentStub(self._channel)

    def enroll(self, *, token: str, csr_der: bytes, hardware_class: str) -> tuple[str, bytes]:
        request = pb.EnrollRequest(token=token, csr_der=csr_der, hardware_class=hardware_class, agent_version=AGENT_VERSION)
        response = _call("Enroll", self._stub.Enroll, request)
        return response.device_id, response.certificate_pem

    def renew(self, *, certificate_pem: bytes, csr_der: bytes, proof: bytes) -> bytes:
        request = pb.RenewRequest(certificate_pem=certificate_pem, csr_der=csr_der, proof=proof)
        renewed: bytes = _call("Renew", self._stub.Renew, request).certificate_pem
        return renewed

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class FleetClient:
    """Fleet, Artifact and Teacher over mTLS. `close` from another thread ends calls under way."""

    def __init__(self, endpoint: str, *, ca_pem: str, key_pem: bytes, certificate_pem: bytes) -> None:
        credentials = grpc.ssl_channel_credentials(ca_pem.encode(), key_pem, certificate_pem)
        self._channel = grpc.secure_channel(endpoint, credentials, options=_OPTIONS)
        self._fleet = rpc.FleetStub(self._channel)
        self._artifact = rpc.ArtifactStub(self._channel)
        self._teacher = rpc.TeacherStub(self._channel)

    def sync(self, request: pb.SyncRequest) -> pb.SyncResponse:
        """Raises FleetUnreachableError, FleetRefusedError."""
        response: pb.SyncResponse = _call("Sync", self._fleet.Sync, request)
        return response

    def metadata(self, name: str) -> bytes:
        """A TUF metadata file, not verified. Raises FleetUnreachableError, FleetRefusedError."""
        request = pb.GetMetadataRequest(name=name, max_bytes=MAX_METADATA_BYTES)
        content: bytes = _call("GetMetadata", self._fleet.GetMetadata, request).content
        return content

    def fetch(self, digest: str, offset: int) -> Iterator[bytes]:
        """A bundle's bytes from `offset`, not verified. Raises FleetUnreachableError, FleetRefusedError."""
        call = self._artifact.Fetch(pb.FetchRequest(digest=digest, offset=offset), timeout=FETCH_TIMEOUT_S)
        try:
            for response in call:
                yield response.chunk
        except grpc.RpcError as error:
            raise _translate("Fetch", error) from error
        finally:
            call.cancel()

    def ask(self, requests: Sequence[pb.AskRequest], timeout_s: float) -> list[pb.AskResponse | FleetUnreachableError | FleetRefusedError]:
        """Ask the teacher, all questions at once, all within `timeout_s`; of each the answer, or why there is none. From any thread."""
        calls = [self._asked(request, timeout_s) for request in requests]
        return [call if isinstance(call, FleetUnreachableError) else _ended("Ask", call) for call in calls]

    def close(self) -> None:
        self._channel.close()

    def _asked(self, request: pb.AskRequest, timeout_s: float) -> Any:
        """A call under way."""
        try:
            return self._teacher.Ask.future(request, timeout=timeout_s)
        except ValueError as error:  # the channel was closed
            return FleetUnreachableError("Ask", str(error))


def _ended(name: str, call: Any) -> Any:
    """What a call brought, once it has ended; by its code, for `result` raises otherwise where the call was cancelled."""
    return call.result() if call.code() is grpc.StatusCode.OK else _translate(name, call)


def _call(name: str, method: Any, request: Any) -> Any:
    try:
        return method(request, timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        raise _translate(name, error) from error
    except ValueError as error:  # the channel was closed under the call
        raise FleetUnreachableError(name, str(error)) from error


def _translate(name: str, error: grpc.RpcError) -> FleetUnreachableError | FleetRefusedError:
    call: Any = error  # what is raised is also a grpc.Call; the stubs cannot say so
    code: grpc.StatusCode = call.code()
    detail = call.details() or ""
    if code in _REFUSALS:
        return FleetRefusedError(name, code.name, detail[:300])
    if said := _NOT_IN_FORCE.search(detail):
        return CertificateTimeError(name, said[0])
    kind = FleetLateError if code is grpc.StatusCode.DEADLINE_EXCEEDED else FleetUnreachableError
    return kind(name, f"{code.name} {detail[:300]}")
