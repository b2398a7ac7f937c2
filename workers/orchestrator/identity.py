"""Who is calling, decided before any servicer sees a request.

Each port has one gate: it reads the caller's certificate from the TLS connection, refuses the wrong role, an ended certificate
and a revoked device, and turns errors into status codes. A servicer gets its caller by `caller()`; a method cannot forget
to ask, because the gate stands before all of them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from pipeline.errors import KdpipeError, ReleaseError
from pipeline.files import FileTooLargeError
from pipeline.releases.online import BundleMissingError
from pipeline.rollout.steering import RolloutActionError
from workers.orchestrator.engine import RolloutConflictError, RolloutUnknownError
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.pki import CertificateRefusedError, Identity, identify, utc
from workers.orchestrator.refusals import CallerRefusedError, OverloadedError, TokenRefusedError
from workers.orchestrator.reports import BodyRefusedError
from workers.orchestrator.roster import Roster
from workers.orchestrator.writer import StoreUnavailableError, WriterClosedError

log = logging.getLogger(__name__)
_caller: ContextVar[Identity] = ContextVar("caller")
Authenticate = Callable[[grpc.aio.ServicerContext[Any, Any]], Identity | None]

_CODES: tuple[tuple[type[KdpipeError], grpc.StatusCode], ...] = (
    (CallerRefusedError, grpc.StatusCode.PERMISSION_DENIED),
    (TokenRefusedError, grpc.StatusCode.PERMISSION_DENIED),
    (CertificateRefusedError, grpc.StatusCode.UNAUTHENTICATED),
    (BodyRefusedError, grpc.StatusCode.INVALID_ARGUMENT),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (FileTooLargeError, grpc.StatusCode.OUT_OF_RANGE),
    (BundleMissingError, grpc.StatusCode.NOT_FOUND),
    (RolloutUnknownError, grpc.StatusCode.NOT_FOUND),
    (RolloutConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (RolloutActionError, grpc.StatusCode.FAILED_PRECONDITION),
    (StoreUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (WriterClosedError, grpc.StatusCode.UNAVAILABLE),
    (ReleaseError, grpc.StatusCode.INVALID_ARGUMENT),
    (KdpipeError, grpc.StatusCode.FAILED_PRECONDITION),
)
"""First match wins: an error's own class before its family."""


def caller() -> Identity:
    """The identity of the call that is being served."""
    return _caller.get()


def authenticator(role: str, roster: Roster, clock: Callable[[], float]) -> Authenticate:
    """Accepts callers of one role with a certificate in force; devices must be known and not revoked."""

    def authenticate(context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise CertificateRefusedError("none", f"a certificate of role {role}")
        identity = identify(pem)
        if identity.role != role:
            raise CallerRefusedError(f"a {identity.role}'s certificate", f"a certificate of role {role}")
        if utc(clock()) >= identity.not_after:
            raise CertificateRefusedError(f"one that ended at {identity.not_after.isoformat()}", "one in force; renew it")
        if role == "device":
            row = roster.devices.get(identity.name)
            if row is None or row.is_revoked or row.population != identity.population:
                raise CallerRefusedError("a revoked or unknown device", "an enrolled one; enrol it anew")
        return identity

    return authenticate


def nobody(context: grpc.aio.ServicerContext[Any, Any]) -> Identity | None:
    """For the enrolment port: its callers have no certificate yet."""
    return None


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Stands before every method of one port."""

    def __init__(self, port: str, authenticate: Authenticate, metrics: OrchestratorMetrics) -> None:
        self._port, self._authenticate, self._metrics = port, authenticate, metrics

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method.rsplit("/", 1)[-1]
        codec = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **codec)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(self._unary(method, handler.stream_unary), **codec)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), **codec)
        return None  # no method of ours streams both ways; UNIMPLEMENTED

    def _unary(self, method: str, serve: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                self._enter(context)
                answer = await serve(request, context)
            except Exception as error:  # noqa: BLE001 the boundary of the process: every error becomes a status here
                await self._refuse(method, context, error)
            else:
                self._metrics.answered(self._port, "OK")
                return answer

        return call

    def _stream(self, method: str, serve: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                self._enter(context)
                async for part in serve(request, context):
                    yield part
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except Exception as error:  # noqa: BLE001 as above
                await self._refuse(method, context, error)
            else:
                self._metrics.answered(self._port, "OK")

        return call

    def _enter(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        identity = self._authenticate(context)
        if identity is not None:
            _caller.set(identity)

    async def _refuse(self, method: str, context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
        self._metrics.answered(self._port, code.name)
        if code is grpc.StatusCode.INTERNAL:
            log.error("call failed", exc_info=error, extra={"method": method})
            await context.abort(code, "the orchestrator failed; its log says why")
        log.info("call refused", extra={"method": method, "code": code.name, "why": str(error)[:300]})
        await context.abort(code, str(error)[:500])
