"""A small fleet in this process: Enrollment, Fleet, Artifact and Teacher over real mTLS, with faults as method calls.

It keeps the contracts that devices rely on: the same token with the same key is answered with the same device again; reports
are acknowledged in order; each assignment is signed by the repository's own key. It decides nothing.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.releases.assignment import Assignment, sign_assignment
from pipeline.releases.keys import load_key
from pipeline.releases.target import ReleaseTarget
from tests.kit.bundles import Trust
from workers.rpc import fleet_pb2 as pb
from workers.rpc import fleet_pb2_grpc as rpc

CHUNK_BYTES = 1024
_PEM = serialization.Encoding.PEM


class FakeFleet:
    """Use as a context manager. `now` is what signed things carry; give it the machine's time for a device with the machine's clock."""

    def __init__(self, folder: Path, *, now: datetime, certificate_days: float = 30, server_clock: timedelta = timedelta()) -> None:
        """`server_clock`: how far off the clock is by which the server's certificate was made; to devices it is as if theirs were."""
        self.trust = Trust.make(folder / "fleet", now=now)
        self.now, self.certificate_days, self.server_clock = now, certificate_days, server_clock
        self.online = self.trust.online()
        self.reports: dict[str, list[pb.Report]] = {}
        self.syncs: list[tuple[str, pb.SyncRequest]] = []
        self.fetched: list[tuple[str, int]] = []
        self.enrolled: dict[bytes, str] = {}
        self.next_sync_s = 0.05
        self.cut_fetch_after_bytes: int | None = None
        self.rewrite_fetch: Callable[[bytes], bytes] = lambda data: data
        self.rewrite_metadata: Callable[[str, bytes], bytes] = lambda name, data: data
        self.down = False
        self.teacher: Callable[[pb.AskRequest], pb.AskResponse] | None = None
        """Answers Ask; None refuses it."""
        self.asked: list[pb.AskRequest] = []
        self.lose_enrol_answers = 0
        self._assignments: dict[str, bytes] = {}
        self._tokens: dict[str, bytes | None] = {}
        self._changed = threading.Condition()
        self._ca_key, self._ca = _make_ca()
        self._server_key, self._server_cert = self._issue("orchestrator", server=True)

    def __enter__(self) -> "FakeFleet":
        self._servers = [self._listen(mutual=False), self._listen(mutual=True)]
        return self

    def __exit__(self, *_: object) -> None:
        for server, _port in self._servers:
            server.stop(0).wait()

    @property
    def fleet_port(self) -> int:
        return self._servers[1][1]

    def enrolment_file(self, path: Path, token: str = "token-1") -> Path:  # noqa: S107 - of this fake alone
        self._tokens.setdefault(token, None)
        tree = {
            "version": 1,
            "endpoint_enrolment": f"localhost:{self._servers[0][1]}",
            "endpoint_fleet": f"localhost:{self._servers[1][1]}",
            "ca_pem": self._ca.public_bytes(_PEM).decode(),
            "root": self.trust.root().decode(),
            "token": token,
        }
        path.write_text(json.dumps(tree))
        path.chmod(0o600)
        return path

    def assign(self, device: str, target: ReleaseTarget, *, generation: int, **changes: Any) -> bytes:
        """Sign an assignment and hand it out from the next Sync on."""
        values = {"target": target.path, "digest": target.digest, "issued": self.now, "expires": self.now + timedelta(days=1), **changes}
        assignment = Assignment(device=values.pop("for_device", device), generation=generation, **values)
        self._assignments[device] = sign_assignment(assignment, load_key(self.trust.keys / "online" / "assignment.pem"))
        return self._assignments[device]

    def replay(self, device: str, envelope: bytes) -> None:
        self._assignments[device] = envelope

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until a condition holds; looked at after each Sync."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"never: last syncs {self.syncs[-2:]}"

    def states(self, device: str, generation: int | None = None) -> list[str]:
        return [
            pb.DeviceState.Name(report.state).removeprefix("DEVICE_STATE_")
            for report in self.reports.get(device, [])
            if generation in (None, report.generation)
        ]

    def last(self, device: str) -> pb.Report:
        return self.reports[device][-1]

    # What the servicers do.

    def Enroll(self, request: pb.EnrollRequest, context: grpc.ServicerContext) -> pb.EnrollResponse:
        csr = x509.load_der_x509_csr(request.csr_der)
        key = csr.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        if request.token not in self._tokens or self._tokens[request.token] not in (None, key):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is unknown or was used")
        self._tokens[request.token] = key
        device = self.enrolled.setdefault(key, f"d-{len(self.enrolled) + 1}")
        certificate = self._sign(f"device:{device}", csr.public_key())
        if self.lose_enrol_answers > 0:
            self.lose_enrol_answers -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost on the way")
        return pb.EnrollResponse(device_id=device, certificate_pem=certificate)

    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.RenewResponse:
        certificate = x509.load_pem_x509_certificate(request.certificate_pem)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(request.proof, request.csr_der, ec.ECDSA(hashes.SHA256()))
        name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        return pb.RenewResponse(certificate_pem=self._sign(name, x509.load_der_x509_csr(request.csr_der).public_key()))

    def Sync(self, request: pb.SyncRequest, context: grpc.ServicerContext) -> pb.SyncResponse:
        self._refuse_if_down(context)
        names: Any = context.auth_context()["x509_common_name"]
        device = names[0].decode().removeprefix("device:")
        with self._changed:
            known = self.reports.setdefault(device, [])
            newest = max(((r.incarnation, r.sequence) for r in known), default=(0, 0))
            known.extend(r for r in request.reports if (r.incarnation, r.sequence) > newest)
            newest = max(((r.incarnation, r.sequence) for r in known), default=(0, 0))
            self.syncs.append((device, request))
            self._changed.notify_all()
        return pb.SyncResponse(
            assignment=self._assignments.get(device, b""),
            acknowledged_incarnation=newest[0],
            acknowledged_sequence=newest[1],
            next_sync_s=self.next_sync_s,
        )

    def GetMetadata(self, request: pb.GetMetadataRequest, context: grpc.ServicerContext) -> pb.GetMetadataResponse:
        self._refuse_if_down(context)
        path = self.trust.repository / "metadata" / request.name
        if not path.exists():
            context.abort(grpc.StatusCode.NOT_FOUND, request.name)
        return pb.GetMetadataResponse(content=self.rewrite_metadata(request.name, path.read_bytes()))

    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.FetchResponse]:
        self._refuse_if_down(context)
        self.fetched.append((request.digest, request.offset))
        path = self.trust.repository / "bundles" / request.digest
        if not path.exists():
            context.abort(grpc.StatusCode.NOT_FOUND, request.digest)
        data = self.rewrite_fetch(path.read_bytes())[request.offset :]
        for start in range(0, len(data), CHUNK_BYTES):
            if self.cut_fetch_after_bytes is not None and start >= self.cut_fetch_after_bytes:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            yield pb.FetchResponse(chunk=data[start : start + CHUNK_BYTES])

    def Ask(self, request: pb.AskRequest, context: grpc.ServicerContext) -> pb.AskResponse:
        self._refuse_if_down(context)
        self.asked.append(request)
        if self.teacher is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nobody answers questions here")
        return self.teacher(request)

    def _refuse_if_down(self, context: grpc.ServicerContext) -> None:
        if self.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    def _listen(self, *, mutual: bool) -> tuple[grpc.Server, int]:
        server = grpc.server(futures.ThreadPoolExecutor(8))
        if mutual:
            rpc.add_FleetServicer_to_server(self, server)
            rpc.add_ArtifactServicer_to_server(self, server)
            rpc.add_TeacherServicer_to_server(self, server)
        else:
            rpc.add_EnrollmentServicer_to_server(self, server)
        ca = self._ca.public_bytes(_PEM)
        credentials = grpc.ssl_server_credentials([(self._server_key, self._server_cert)], ca if mutual else None, mutual)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        return server, port

    def _issue(self, name: str, *, server: bool) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return pem, self._sign(name, key.public_key(), server=server)

    def _sign(self, name: str, key: Any, *, server: bool = False) -> bytes:
        now = datetime.now(UTC) + (self.server_clock if server else timedelta())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=self.certificate_days))
        )
        if server:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return builder.sign(self._ca_key, hashes.SHA256()).public_bytes(_PEM)


def _make_ca() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test ca")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate
