"""The three gRPC servers: which service is on which port, behind which gate, within which limits.

Three servers, because the ports trust different callers. Health checking is on all of them, without its `Watch`, whose streams a
caller could pile up; reflection is on the operator port only. A port that somebody else has is an error, never shared in silence.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from workers.orchestrator.gate import Gate
from workers.orchestrator.identity import Authenticate
from workers.orchestrator.limits import Limits
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.pki import Credentials, Pki
from workers.orchestrator.ports import Ports, PortTakenError
from workers.rpc import fleet_pb2

STOP_GRACE_S = 0.5
MAX_DEVICE_MESSAGE_BYTES = 272 * 1024
"""What a device asks the teacher is the largest: 65,536 numbers."""
MAX_STRANGER_MESSAGE_BYTES = 128 * 1024
MAX_OPERATOR_MESSAGE_BYTES = 6 * 1024 * 1024
MAX_CALLS = 512
ROLLOUTS = "kdpipe.rollouts"
"""What a health check asks for to hear of them; devices are served without."""
SERVICES = fleet_pb2.DESCRIPTOR.services_by_name


@dataclass(frozen=True, kw_only=True)
class Services:
    """What answers; each has the methods that `fleet.proto` gives its service."""

    fleet: object
    artifact: object
    teacher: object
    enrolment: object
    operator: object


class Listeners:
    """`start`, then `stop`."""

    def __init__(self, *, host: str, pki: Pki, authenticate: Authenticate, limits: Limits, metrics: OrchestratorMetrics) -> None:
        self._host, self._pki, self._authenticate, self._limits, self._metrics = host, pki, authenticate, limits, metrics
        self._servers: list[grpc.aio.Server] = []
        self._health = health.aio.HealthServicer()

    async def start(self, services: Services, wanted: Ports) -> Ports:
        """Serve; returns the ports, without that of the metrics. Raises PortTakenError."""
        on_fleet = [(SERVICES["Fleet"], services.fleet), (SERVICES["Artifact"], services.artifact)]
        names = [SERVICES["Operator"].full_name, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflected = (reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"], reflection.aio.ReflectionServicer(names))
        fleet = self._server("fleet", on_fleet, MAX_DEVICE_MESSAGE_BYTES)
        # A gate of its own: what a device asks the teacher, and waits for, must not count against its Sync.
        fleet.add_generic_rpc_handlers((self._gate("teacher").handlers(SERVICES["Teacher"], services.teacher),))
        enrolment = self._server("enrolment", [(SERVICES["Enrollment"], services.enrolment)], MAX_STRANGER_MESSAGE_BYTES)
        operator = self._server("operator", [(SERVICES["Operator"], services.operator), reflected], MAX_OPERATOR_MESSAGE_BYTES)
        ports = Ports(
            fleet=self._bind(fleet, wanted.fleet, "fleet"),
            enrolment=self._bind(enrolment, wanted.enrolment, "enrolment", is_mutual=False),
            operator=self._bind(operator, wanted.operator, "operator"),
        )
        for server in (fleet, enrolment, operator):
            await server.start()
            self._servers.append(server)
        return ports

    def renew(self, pki: Pki) -> None:
        """Show this server certificate to whoever connects from now on; connections that are open go on."""
        self._pki = pki

    async def stop(self) -> None:
        """Answer what is being asked. A second call does nothing."""
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in servers))

    async def say(self, *, is_well: bool, is_whole: bool) -> None:
        """What a health check hears from now on, of the server as a whole, and of `ROLLOUTS`: whether the log of every rollout holds."""
        for service, holds in (("", is_well), (ROLLOUTS, is_whole)):
            status = health_pb2.HealthCheckResponse.SERVING if holds else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(service, status)

    def _credentials(self, *, is_mutual: bool) -> grpc.ServerCredentials:
        """The server's certificate as it is at each handshake, for one port; where mutual, callers must have one of the same CA."""
        shown, roots = self._pki.server, self._pki.ca_pem if is_mutual else None

        def of(server: Credentials) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration([(server.key_pem, server.certificate_pem)], root_certificates=roots)

        def fetch() -> Any:
            nonlocal shown
            if self._pki.server == shown:
                return None  # no other than before; the stubs leave that out
            shown = self._pki.server
            return of(shown)

        return grpc.dynamic_ssl_server_credentials(of(shown), fetch, require_client_authentication=is_mutual)

    def _server(self, port: str, services: list[tuple[ServiceDescriptor, object]], message_bytes: int) -> grpc.aio.Server:
        options: list[tuple[str, Any]] = [
            ("grpc.so_reuseport", 0),  # or a second server would share the port in silence
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_connection_idle_ms", 600_000),
            ("grpc.max_concurrent_streams", self._limits.streams),
            ("grpc.max_allowed_incoming_connections", self._limits.connections),
        ]
        gate = self._gate(port)
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CALLS)
        checked = gate.handlers(health_pb2.DESCRIPTOR.services_by_name["Health"], self._health, but={"Watch"})
        server.add_generic_rpc_handlers((*(gate.handlers(service, servicer) for service, servicer in services), checked))
        return server

    def _gate(self, port: str) -> Gate:
        return Gate(port, self._authenticate, self._limits, self._metrics)

    def _bind(self, server: grpc.aio.Server, port: int, what: str, *, is_mutual: bool = True) -> int:
        credentials = self._credentials(is_mutual=is_mutual)
        try:
            socket.create_server((self._host, port)).close()  # gRPC would print lines of its own about a taken port
            bound: int = server.add_secure_port(f"{self._host}:{port}", credentials)
        except (OSError, OverflowError, RuntimeError) as error:
            raise PortTakenError(self._host, port, what) from error
        if bound == 0:
            raise PortTakenError(self._host, port, what)
        return bound
