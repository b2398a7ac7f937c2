"""Enrolment and renewal: how a machine becomes a device of the fleet, and stays one.

A token is for one device: it binds to the first key that uses it, so a device whose answer was lost asks again with the same key (and
that token or a fresh one) and is the same device, and anybody else is refused. Tokens are stored hashed. The certificate is
issued after the commit. How many certificates one key or one device gets is bounded, whether or not it may have them.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Any

import grpc
from cryptography import x509
from sqlalchemy import insert, select, update

from workers.orchestrator import tables
from workers.orchestrator.limits import Buckets, Limits
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.pki import Pki, check_renewal, issue_device, key_hash, parse_request, utc
from workers.orchestrator.refusals import CallerRefusedError, TokenRefusedError
from workers.orchestrator.reports import check_name
from workers.orchestrator.roster import DeviceRow, Roster
from workers.orchestrator.writer import Session, Writer
from workers.rpc import fleet_pb2, fleet_pb2_grpc

MAX_TOKEN_CHARACTERS = 200
Context = grpc.aio.ServicerContext[Any, Any]


def create_tokens(session: Session, *, population: str, count: int, expires_s: float) -> list[str]:
    """Fresh single-use tokens; only their hashes are kept."""
    fresh = [secrets.token_urlsafe(32) for _ in range(count)]
    rows = [{"hash": _hash(token), "population": population, "expires_s": expires_s} for token in fresh]
    session.connection.execute(insert(tables.tokens), rows)
    return fresh


def enrol(session: Session, *, token: str, hardware: str, agent_version: str, device_key_hash: str, now: float) -> DeviceRow:
    """The device that this token and key are: a new one, or the same as before. Raises TokenRefusedError, CallerRefusedError."""
    hashed = _hash(token)
    found = session.connection.execute(select(tables.tokens).where(tables.tokens.c.hash == hashed)).mappings().one_or_none()
    if found is None:
        raise TokenRefusedError
    if found["device_id"] is not None:
        row = session.device(found["device_id"])
        if found["key_hash"] != device_key_hash or row is None:
            raise TokenRefusedError
        if row.is_revoked:
            raise CallerRefusedError("a revoked device", "an enrolled one; enrol it with a new token")
        return row
    if now >= found["expires_s"]:
        raise TokenRefusedError
    row = _known(session, device_key_hash, population=found["population"])
    device_id = row.device_id if row is not None else f"d-{secrets.token_hex(8)}"
    session.connection.execute(
        update(tables.tokens).where(tables.tokens.c.hash == hashed).values(device_id=device_id, key_hash=device_key_hash)
    )
    if row is None:
        row = DeviceRow(device_id=device_id, population=found["population"], hardware=hardware, agent_version=agent_version, enrolled_s=now)
        session.add_device(row)
    return row


class Enrolment(fleet_pb2_grpc.EnrollmentServicer):
    """The service on the port that asks for no client certificate."""

    def __init__(
        self,
        *,
        pki: Pki,
        limits: Limits,
        roster: Roster,
        writer: Writer,
        clock: Callable[[], float],
        metrics: OrchestratorMetrics,
        news: Callable[[], None],
    ) -> None:
        self._pki, self._roster, self._writer = pki, roster, writer
        self._clock, self._metrics, self._news = clock, metrics, news
        self._certificates = Buckets(per_s=limits.certificates_per_s, burst=limits.certificates_burst)

    async def Enroll(self, request: fleet_pb2.EnrollRequest, context: Context) -> fleet_pb2.EnrollResponse:
        if len(request.token) > MAX_TOKEN_CHARACTERS:
            raise TokenRefusedError
        signing = parse_request(request.csr_der)
        check_name("hardware_class", request.hardware_class)
        check_name("agent_version", request.agent_version, is_optional=True)
        fingerprint, now = key_hash(signing.public_key()), self._clock()
        self._certificates.take(fingerprint, "enrolment with this key", now_s=time.monotonic())

        def job(session: Session) -> DeviceRow:
            return enrol(
                session,
                token=request.token,
                hardware=request.hardware_class,
                agent_version=request.agent_version,
                device_key_hash=fingerprint,
                now=now,
            )

        row = await self._writer.run(job)
        self._metrics.enrolled()
        self._news()
        return fleet_pb2.EnrollResponse(device_id=row.device_id, certificate_pem=self._certificate(row, signing))

    async def Renew(self, request: fleet_pb2.RenewRequest, context: Context) -> fleet_pb2.RenewResponse:
        identity, signing = check_renewal(
            self._pki,
            certificate_pem=request.certificate_pem,
            csr_der=request.csr_der,
            proof=request.proof,
            now=utc(self._clock()),
        )
        row = self._roster.devices.get(identity.name)
        if row is None or row.is_revoked or row.population != identity.population:
            raise CallerRefusedError("a revoked or unknown device", "an enrolled one; enrol it anew")
        self._certificates.take(row.device_id, "renewal of this device", now_s=time.monotonic())
        return fleet_pb2.RenewResponse(certificate_pem=self._certificate(row, signing))

    def _certificate(self, row: DeviceRow, signing: x509.CertificateSigningRequest) -> bytes:
        return issue_device(self._pki, signing, device_id=row.device_id, population=row.population, now=utc(self._clock()))


def _known(session: Session, device_key_hash: str, *, population: str) -> DeviceRow | None:
    """The unrevoked device that enrolled with this key before: it lost the answer, and came back with another token."""
    tokens = tables.tokens.c
    query = select(tokens.device_id).where(tokens.key_hash == device_key_hash, tokens.population == population).limit(1)
    device_id = session.connection.scalar(query)
    row = session.device(device_id) if device_id is not None else None
    return row if row is not None and not row.is_revoked else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
