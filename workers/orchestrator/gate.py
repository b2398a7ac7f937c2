"""The gate of a port: what stands between the wire and a service, for every method alike.

It knows a caller by the certificate of the connection, asks `access` whether it may, counts it against its limit, and only then reads
the message; it turns errors into status codes. A service gets parsed messages and `identity.caller()`, and cannot forget to
ask, because methods are reachable through a gate only. There is no interceptor: gRPC gets handlers over bytes, which costs less.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from pipeline.errors import KdpipeError, ReleaseError
from pipeline.files import FileTooLargeError
from pipeline.releases.online import BundleMissingError
from pipeline.rollout.steering import RolloutActionError
from workers.orchestrator.access import ACCESS, Caller, check_access
from workers.orchestrator.answering import NoAnswerError, TeacherDownError
from workers.orchestrator.engine import RolloutConflictError, RolloutUnknownError
from workers.orchestrator.identity import Authenticate, admit
from workers.orchestrator.limits import Buckets, Limits, RateExceededError
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.pki import CertificateRefusedError
from workers.orchestrator.refusals import (
    CallerRefusedError,
    DeviceUnknownError,
    OverloadedError,
    PictureOldError,
    StalledError,
    TokenRefusedError,
)
from workers.orchestrator.reports import BodyRefusedError
from workers.orchestrator.writer import StoreUnavailableError, WriterClosedError

Context = grpc.aio.ServicerContext[Any, Any]
log = logging.getLogger(__name__)

_CODES: tuple[tuple[type[KdpipeError], grpc.StatusCode], ...] = (
    (CallerRefusedError, grpc.StatusCode.PERMISSION_DENIED),
    (TokenRefusedError, grpc.StatusCode.PERMISSION_DENIED),
    (CertificateRefusedError, grpc.StatusCode.UNAUTHENTICATED),
    (BodyRefusedError, grpc.StatusCode.INVALID_ARGUMENT),
    (NoAnswerError, grpc.StatusCode.INVALID_ARGUMENT),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (RateExceededError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (FileTooLargeError, grpc.StatusCode.OUT_OF_RANGE),
    (BundleMissingError, grpc.StatusCode.NOT_FOUND),
    (DeviceUnknownError, grpc.StatusCode.NOT_FOUND),
    (RolloutUnknownError, grpc.StatusCode.NOT_FOUND),
    (RolloutConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (RolloutActionError, grpc.StatusCode.FAILED_PRECONDITION),
    (StoreUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (WriterClosedError, grpc.StatusCode.UNAVAILABLE),
    (PictureOldError, grpc.StatusCode.UNAVAILABLE),
    (TeacherDownError, grpc.StatusCode.UNAVAILABLE),
    (ReleaseError, grpc.StatusCode.INVALID_ARGUMENT),
    (KdpipeError, grpc.StatusCode.FAILED_PRECONDITION),
)
"""First match wins: an error's own class before its family."""


class Gate:
    """Stands before every method of one port."""

    def __init__(self, port: str, authenticate: Authenticate, limits: Limits, metrics: OrchestratorMetrics) -> None:
        self._port, self._authenticate, self._metrics, self._stalled_s = port, authenticate, metrics, limits.stalled_s
        self._under_way: dict[str, int] = {}
        self._most_at_once = limits.device_calls_at_once
        self._calls = Buckets(per_s=limits.device_calls_per_s, burst=limits.device_calls_burst)
        self._failures = Buckets(per_s=limits.enrolment_failures_per_s, burst=limits.enrolment_failures_burst, most=10_000)

    def handlers(self, service: ServiceDescriptor, servicer: object, *, but: Container[str] = ()) -> "grpc.GenericRpcHandler[Any, Any]":
        """The service behind this gate, without the methods in `but`."""
        methods = {
            method.name: self._handler(method, getattr(servicer, method.name)) for method in service.methods if method.name not in but
        }
        return grpc.method_handlers_generic_handler(service.full_name, methods)

    def _handler(self, method: MethodDescriptor, serve: Callable[..., Any]) -> Any:
        name = f"{method.containing_service.full_name}/{method.name}"
        assert name in ACCESS, f"{name} has no entry in workers.orchestrator.access"
        parse = GetMessageClass(method.input_type).FromString
        if method.client_streaming:
            call = self._streams(name, serve, parse) if method.server_streaming else self._stream_in(name, serve, parse)
        else:
            call = self._stream_out(name, serve, parse) if method.server_streaming else self._unary(name, serve, parse)
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]
        return make(call)

    def _unary(self, name: str, serve: Callable[..., Awaitable[Any]], parse: Callable[[bytes], Any]) -> Callable[..., Awaitable[bytes]]:
        async def call(request: bytes, context: Context) -> bytes:
            try:
                await self._enter(name, context)
                answer = await serve(_parsed(parse, request), context)
            except Exception as error:  # noqa: BLE001 the boundary of the process: every error becomes a status here
                return await self._refuse(name, context, error)
            self._metrics.answered(self._port, "OK")
            return bytes(answer.SerializeToString())

        return call

    def _stream_in(self, name: str, serve: Callable[..., Awaitable[Any]], parse: Callable[[bytes], Any]) -> Callable[..., Awaitable[bytes]]:
        async def call(requests: AsyncIterator[bytes], context: Context) -> bytes:
            try:
                await self._enter(name, context)
                answer = await serve(_each(parse, requests), context)
            except Exception as error:  # noqa: BLE001 as above
                return await self._refuse(name, context, error)
            self._metrics.answered(self._port, "OK")
            return bytes(answer.SerializeToString())

        return call

    def _stream_out(self, name: str, serve: Callable[..., AsyncGenerator[Any, None]], parse: Callable[[bytes], Any]) -> Callable[..., Any]:
        async def call(request: bytes, context: Context) -> None:
            try:
                await self._enter(name, context)
                async with contextlib.aclosing(serve(_parsed(parse, request), context)) as parts:
                    async for part in parts:
                        await self._send(context, part.SerializeToString())
            except StalledError as error:
                self._metrics.answered(self._port, "DEADLINE_EXCEEDED")
                log.info("call given up", extra={"method": name, "why": str(error)})
                # Nothing is said to who does not read: a status would wait behind what was sent. gRPC ends the call at its deadline.
                raise asyncio.CancelledError from error
            except Exception as error:  # noqa: BLE001 as above
                await self._refuse(name, context, error)
            else:
                self._metrics.answered(self._port, "OK")

        return call

    def _streams(self, name: str, serve: Callable[..., AsyncIterator[Any]], parse: Callable[[bytes], Any]) -> Callable[..., Any]:
        async def call(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            try:
                await self._enter(name, context)
                async for part in serve(_each(parse, requests), context):
                    yield part.SerializeToString()
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except Exception as error:  # noqa: BLE001 as above
                await self._refuse(name, context, error)
            else:
                self._metrics.answered(self._port, "OK")

        return call

    async def _send(self, context: Context, part: bytes) -> None:
        """Send one part; a caller that does not take it may not hold what serves it. Raises StalledError."""
        try:
            async with asyncio.timeout(self._stalled_s):
                await context.write(part)
        except TimeoutError as error:
            raise StalledError(self._stalled_s) from error

    async def _enter(self, name: str, context: Context) -> None:
        """Let the caller in, or raise why not."""
        if ACCESS[name] is Caller.ANYBODY:
            if self._port == "enrolment":
                self._failures.check(_address(context), "this address fails to enrol and", now_s=time.monotonic())
            return
        identity = await self._authenticate(context)
        check_access(name, kind=identity.kind, role=identity.role)
        if identity.kind == "device":
            self._calls.take(identity.name, "this device", now_s=time.monotonic())
            self._begin(identity.name, context)
        admit(identity)

    def _begin(self, device: str, context: Context) -> None:
        """Count a call of a device until its answer has been taken, or the call ended without that. Raises OverloadedError."""
        at_once = self._under_way.get(device, 0)
        if at_once >= self._most_at_once:
            raise OverloadedError(f"{at_once} calls of this device", f"at most {self._most_at_once} of one device at once")
        self._under_way[device] = at_once + 1

        def end(_: Context) -> None:
            self._under_way[device] -= 1
            if not self._under_way[device]:
                del self._under_way[device]

        context.add_done_callback(end)  # type: ignore[arg-type]  # the stubs want an instance of a class of theirs

    async def _refuse(self, name: str, context: Context, error: Exception) -> bytes:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
        self._metrics.answered(self._port, code.name)
        if code is grpc.StatusCode.INTERNAL:
            log.error("call failed", exc_info=error, extra={"method": name})
            await context.abort(code, "the orchestrator failed; its log says why")
        hint: tuple[tuple[str, str], ...] = ()
        if isinstance(error, RateExceededError):  # a flood is counted, not written down
            hint = (("grpc-retry-pushback-ms", str(round(error.wait_s * 1000) + 1)),)
        else:
            log.info("call refused", extra={"method": name, "code": code.name, "why": str(error)[:300]})
        if self._port == "enrolment" and code is not grpc.StatusCode.UNAVAILABLE:
            self._failures.spend(_address(context), now_s=time.monotonic())
        await context.abort(code, str(error)[:500], trailing_metadata=hint)
        raise AssertionError  # abort raises


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except (DecodeError, RecursionError) as error:
        raise BodyRefusedError("message", f"{len(data)} bytes that do not parse", "a message of kdpipe.fleet.v1") from error


async def _each(parse: Callable[[bytes], Any], requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parsed(parse, request)


def _address(context: Context) -> str:
    """Where a caller without a certificate comes from, without its port."""
    return str(context.peer()).rpartition(":")[0]
