"""A simulated device: enrols, syncs and downloads over real gRPC with real certificates, and reports what a test tells it to.

It does what the protocol asks of an agent and nothing of an agent's insides: no model, no slots. Times are the test's.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.releases.assignment import Assignment, assignment_keys, verify_assignment
from workers.orchestrator.pki import utc
from workers.rpc import fleet_pb2, fleet_pb2_grpc

CALL_S = 10.0
OPTIONS = (("grpc.enable_http_proxy", 0),)


def signing_request(key: ec.EllipticCurvePrivateKey, *, name: str = "anything") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where the orchestrator is, and what a device trusts."""

    host: str
    fleet: int
    enrolment: int
    operator: int
    ca_pem: bytes

    def enrolment_stub(self) -> tuple[grpc.Channel, fleet_pb2_grpc.EnrollmentStub]:
        channel = grpc.secure_channel(f"{self.host}:{self.enrolment}", grpc.ssl_channel_credentials(self.ca_pem), options=OPTIONS)
        return channel, fleet_pb2_grpc.EnrollmentStub(channel)

    def mutual(self, port: int, *, key_pem: bytes, certificate_pem: bytes) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca_pem, key_pem, certificate_pem)
        return grpc.secure_channel(f"{self.host}:{port}", credentials, options=OPTIONS)


class SimulatedDevice:
    """One device. `enrol` first; `close` at the end."""

    def __init__(self, endpoints: Endpoints, *, hardware: str = "x86", incarnation: int = 1) -> None:
        self.endpoints, self.hardware, self.incarnation = endpoints, hardware, incarnation
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.device_id, self.certificate_pem = "", b""
        self.running_digest, self.generation, self.sequence = "", 0, 0
        self.assignment, self.assigned_digest = b"", ""
        self.next_sync_s = 0.0
        self.arrival: fleet_pb2.Arrival | None = None
        """How it says that what it runs came."""
        self._channel: grpc.Channel | None = None

    def enrol(self, token: str) -> str:
        channel, stub = self.endpoints.enrolment_stub()
        with channel:
            request = fleet_pb2.EnrollRequest(
                token=token, csr_der=signing_request(self.key), hardware_class=self.hardware, agent_version="1"
            )
            answer = stub.Enroll(request, timeout=CALL_S)
        self.device_id, self.certificate_pem = answer.device_id, answer.certificate_pem
        return self.device_id

    def renew(self, *, key: ec.EllipticCurvePrivateKey | None = None, prove_with: ec.EllipticCurvePrivateKey | None = None) -> None:
        key = key or self.key
        csr = signing_request(key)
        proof = (prove_with or self.key).sign(csr, ec.ECDSA(hashes.SHA256()))
        channel, stub = self.endpoints.enrolment_stub()
        with channel:
            request = fleet_pb2.RenewRequest(certificate_pem=self.certificate_pem, csr_der=csr, proof=proof)
            self.certificate_pem = stub.Renew(request, timeout=CALL_S).certificate_pem
        self.key = key
        self.close()

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = self.endpoints.mutual(self.endpoints.fleet, key_pem=private_pem(self.key), certificate_pem=self.certificate_pem)
        return self._channel

    def report(self, state: str, *, digest: str | None = None, generation: int | None = None, code: str = "") -> fleet_pb2.Report:
        """The next report of a change to `state` ("CONFIRMED"), about the present assignment unless told otherwise."""
        self.sequence += 1
        return fleet_pb2.Report(
            incarnation=self.incarnation,
            sequence=self.sequence,
            generation=self.generation if generation is None else generation,
            digest=self.assigned_digest if digest is None else digest,
            state=f"DEVICE_STATE_{state}",
            failure_code=code,
        )

    def sync(self, *reports: fleet_pb2.Report) -> fleet_pb2.SyncResponse:
        request = fleet_pb2.SyncRequest(
            reports=reports,
            running_digest=self.running_digest,
            assignment_generation=self.generation,
            hardware_class=self.hardware,
            arrival=self.arrival,
        )
        answer = fleet_pb2_grpc.FleetStub(self.channel).Sync(request, timeout=CALL_S)
        self.assignment, self.next_sync_s = answer.assignment, answer.next_sync_s
        return answer

    def verify(self, targets_metadata: bytes, *, now_s: float) -> Assignment:
        """The assignment, verified as a device must."""
        return verify_assignment(self.assignment, assignment_keys(targets_metadata), device=self.device_id, now=utc(now_s))

    def accept(self, targets_metadata: bytes, *, now_s: float) -> Assignment:
        """Verify the assignment, and hold on to its generation."""
        assignment = self.verify(targets_metadata, now_s=now_s)
        assert assignment.generation >= self.generation, "a device refuses to go back"
        self.generation, self.assigned_digest = assignment.generation, assignment.digest
        return assignment

    def confirm(self) -> fleet_pb2.SyncResponse:
        """Run the assigned release and say so."""
        self.running_digest = self.assigned_digest
        return self.sync(self.report("TRIAL"), self.report("CONFIRMED"))

    def metadata(self, name: str, *, max_bytes: int = 1_000_000) -> bytes:
        request = fleet_pb2.GetMetadataRequest(name=name, max_bytes=max_bytes)
        return fleet_pb2_grpc.FleetStub(self.channel).GetMetadata(request, timeout=CALL_S).content

    def fetch(self, digest: str, *, offset: int = 0) -> Generator[bytes, None, None]:
        request = fleet_pb2.FetchRequest(digest=digest, offset=offset)
        for part in fleet_pb2_grpc.ArtifactStub(self.channel).Fetch(request, timeout=CALL_S):
            yield part.chunk

    def ask(self, request: fleet_pb2.AskRequest | str, *, timeout_s: float | None = CALL_S) -> fleet_pb2.AskResponse:
        """Ask the teacher; `future_ask` does not wait."""
        answer: fleet_pb2.AskResponse = self.future_ask(request, timeout_s=timeout_s).result()
        return answer

    def future_ask(self, request: fleet_pb2.AskRequest | str, *, timeout_s: float | None = CALL_S) -> Any:
        request = fleet_pb2.AskRequest(text=request) if isinstance(request, str) else request
        return fleet_pb2_grpc.TeacherStub(self.channel).Ask.future(request, timeout=timeout_s)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def sha256_of(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def enrolled(endpoints: Endpoints, tokens: Sequence[str], *, hardware: str = "x86") -> list[SimulatedDevice]:
    """One enrolled device per token."""
    devices = [SimulatedDevice(endpoints, hardware=hardware) for _ in tokens]
    for device, token in zip(devices, tokens, strict=True):
        device.enrol(token)
    return devices
