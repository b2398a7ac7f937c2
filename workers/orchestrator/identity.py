"""Who is calling, read from the certificate of the connection.

A port has one authenticator: it refuses an ended certificate, a revoked device, and anybody while this replica cannot know who was
revoked. A servicer gets its caller by `caller()`; the gate has set it before.
"""

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from workers.orchestrator.pki import CertificateRefusedError, Identity, identify
from workers.orchestrator.refusals import CallerRefusedError, PictureOldError
from workers.orchestrator.roster import Roster
from workers.orchestrator.writer import Writer

OLD_S = 30.0
"""A replica that has not heard from the database for so long answers nobody: it may have missed a revocation."""

_caller: ContextVar[Identity] = ContextVar("caller")
Authenticate = Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[Identity]]


def caller() -> Identity:
    """The identity of the call that is being served."""
    return _caller.get()


def admit(identity: Identity) -> None:
    """Make this the caller of the call that is being served."""
    _caller.set(identity)


def authenticator(roster: Roster, writer: Writer, clock: Callable[[], float]) -> Authenticate:
    """Accepts a certificate in force; devices must be known and not revoked."""

    async def authenticate(context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise CertificateRefusedError("none", "a certificate of this fleet")
        identity = identify(pem)
        if clock() >= identity.not_after_s:
            raise CertificateRefusedError(f"one that ended at {identity.not_after.isoformat()}", "one in force; renew it")
        if identity.kind == "device":
            row = roster.devices.get(identity.name)
            if row is None:  # another replica may have enrolled it a moment ago
                await writer.run(lambda session: None)
                row = roster.devices.get(identity.name)
            if row is None or row.is_revoked or row.population != identity.population:
                raise CallerRefusedError("a revoked or unknown device", "an enrolled one; enrol it anew")
        elif identity.name in roster.revoked_operators:
            raise CallerRefusedError("a revoked operator", "one in force; `kdpipe operator new` makes one of another name")
        age_s = time.monotonic() - writer.current_s
        if age_s > OLD_S:
            raise PictureOldError(age_s, OLD_S)
        return identity

    return authenticate
