"""The orchestrator's life: open what it needs, serve, keep the wave engine and the timestamp going, stop in order.

Three servers, because the ports trust different callers. The engine wakes on news (a report, an enrolment, an operator) and
by the clock only while a rollout could move by itself; there is no busy polling. Everything that must survive is in the
database or the repository before a call is answered, so that a kill at any instruction is a restart.
"""

import asyncio
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

import grpc
from sqlalchemy import Engine as Database
from sqlalchemy import delete, insert, select

from pipeline.errors import FolderBusyError
from pipeline.files import make_private_folder
from pipeline.releases.keys import Unlock, load_key
from pipeline.releases.online import OnlineRepository
from pipeline.releases.repository import TIMESTAMP_VALID
from pipeline.rollout.rollout import WavePhase
from workers.metrics import MetricsServer
from workers.orchestrator import tables
from workers.orchestrator.engine import Engine
from workers.orchestrator.enrolment import Enrolment
from workers.orchestrator.fleet import Artifact, Fleet
from workers.orchestrator.identity import Authenticate, Gate, authenticator, nobody
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.operations import Operations
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.pki import Pki, ensure_pki, utc
from workers.orchestrator.ports import Ports, PortTakenError, choose, read_ports, settled, write_ports
from workers.orchestrator.roster import Roster
from workers.orchestrator.writer import Session, Writer
from workers.rpc import fleet_pb2_grpc

HEARTBEAT_S = 5.0
HOUSEKEEPING_S = 3600.0
AWAY_S = 6 * HEARTBEAT_S
"""A pass this long after the one before: the machine slept, the process was stopped, or the clock was stepped."""
LIVE_TICK_S = 1.0
"""Longest time between two looks at a rollout that is under way: deadlines and silence are noticed this late at most."""
ENGINE_SHARE = 4
"""After a pass the engine rests this many times as long as the pass took, so that it never has more than a fifth of a core."""
REPORTS_KEPT = timedelta(days=30)
STOP_GRACE_S = 0.5
MAX_DEVICE_MESSAGE_BYTES = 128 * 1024
MAX_OPERATOR_MESSAGE_BYTES = 6 * 1024 * 1024
MAX_CALLS = 512
MAX_DOWNLOADS = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the orchestrator lives and listens."""

    folder: Path
    repository: Path
    keys: Path
    """Folder of the online keys: snapshot, timestamp, assignment."""
    unlock: Unlock = field(default_factory=Unlock, repr=False)
    """What opens them."""
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    pacing: Pacing = field(default_factory=Pacing)
    database_url: str = ""
    """Empty is SQLite in `folder`."""


class Orchestrator:
    """`start`, then `stop`. All of it on one event loop, but for the writer's thread."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._news = asyncio.Event()
        self._servers: list[grpc.aio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._lock: IO[str] | None = None
        self._database: Database | None = None
        self._writer: Writer | None = None
        self._metrics_server = MetricsServer(host=settings.host)
        self.roster = Roster()
        self.ports = Ports()

    async def start(self) -> Ports:
        """Serve. Raises FolderBusyError, PortTakenError, ReleaseError, PkiBrokenError, DatabaseUnusableError, RolloutLogBrokenError."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Answer what is being asked, then close everything. A second call does nothing."""
        await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in self._servers))
        self._servers.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._writer is not None:
            self._writer.submit(self._beat)
            await asyncio.to_thread(self._writer.close)
            self._writer = None
        if self._database is not None:
            self._database.dispose()
            self._database = None
        self._metrics_server.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _start(self) -> Ports:
        settings, now = self._settings, self._clock()
        folder = make_private_folder(settings.folder)
        self._lock = _hold(folder)
        pki = ensure_pki(folder / "pki", host=settings.host, now=utc(now))
        repository = OnlineRepository(settings.repository, settings.keys, settings.unlock)
        self._database = tables.open_database(settings.database_url or tables.database_url(folder))
        with self._database.begin() as connection:
            self.roster.load(connection)
            alive_until_s = connection.scalar(select(tables.facts.c.value).where(tables.facts.c.name == "alive_until_s"))
        wanted = settled(choose(settings.ports, read_ports(folder)), settings.host)
        self._metrics_server = MetricsServer(host=settings.host, port=wanted.metrics)
        self._metrics = OrchestratorMetrics(self._metrics_server)
        self._writer = Writer(self._database, self.roster, on_commit=self._metrics.committed)
        signer = load_key(settings.keys / "assignment.pem", settings.unlock)
        self._engine = Engine(self.roster, repository, signer, started_s=now, pacing=settings.pacing)
        engine = self._engine
        await self._writer.run(lambda session: engine.wake(session, alive_until_s=float(alive_until_s or now), now=now))
        await self._serve(wanted, pki, repository)
        write_ports(folder, self.ports)
        self._news.set()
        self._tasks = [asyncio.create_task(self._turn()), asyncio.create_task(self._keep(repository))]
        log.info("serving", extra={"devices": len(self.roster.devices), "rollouts": len(self.roster.rollouts)})
        return self.ports

    async def _serve(self, wanted: Ports, pki: Pki, repository: OnlineRepository) -> None:
        assert self._writer is not None
        common: dict[str, Any] = {"clock": self._clock, "metrics": self._metrics, "roster": self.roster, "writer": self._writer}
        common["news"] = self._news.set
        servicer = Fleet(engine=self._engine, repository=repository, pacing=self._settings.pacing, **common)
        downloads = Artifact(repository=repository, metrics=self._metrics, downloads_max=MAX_DOWNLOADS)
        operations = Operations(engine=self._engine, repository=repository, pacing=self._settings.pacing, **common)
        certificate = [(pki.server.key_pem, pki.server.certificate_pem)]
        mutual = grpc.ssl_server_credentials(certificate, root_certificates=pki.ca_pem, require_client_auth=True)
        one_way = grpc.ssl_server_credentials(certificate)

        fleet = self._server("fleet", authenticator("device", self.roster, self._clock), MAX_DEVICE_MESSAGE_BYTES)
        fleet_pb2_grpc.add_FleetServicer_to_server(servicer, fleet)
        fleet_pb2_grpc.add_ArtifactServicer_to_server(downloads, fleet)
        enrolment = self._server("enrolment", nobody, MAX_DEVICE_MESSAGE_BYTES)
        fleet_pb2_grpc.add_EnrollmentServicer_to_server(Enrolment(pki=pki, **common), enrolment)
        operator = self._server("operator", authenticator("operator", self.roster, self._clock), MAX_OPERATOR_MESSAGE_BYTES)
        fleet_pb2_grpc.add_OperatorServicer_to_server(operations, operator)

        self.ports = Ports(
            fleet=self._bind(fleet, wanted.fleet, mutual, "fleet"),
            enrolment=self._bind(enrolment, wanted.enrolment, one_way, "enrolment"),
            operator=self._bind(operator, wanted.operator, mutual, "operator"),
            metrics=self._metrics_server.start(),
        )
        for server in (fleet, enrolment, operator):
            await server.start()
            self._servers.append(server)

    def _server(self, port: str, authenticate: Authenticate, message_bytes: int) -> grpc.aio.Server:
        options: Sequence[tuple[str, int]] = (
            ("grpc.so_reuseport", 0),  # or a second server would share the port in silence
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_connection_idle_ms", 600_000),
        )
        gate = Gate(port, authenticate, self._metrics)
        return grpc.aio.server(interceptors=[gate], options=options, maximum_concurrent_rpcs=MAX_CALLS)

    def _bind(self, server: grpc.aio.Server, port: int, credentials: grpc.ServerCredentials, what: str) -> int:
        try:
            socket.create_server((self._settings.host, port)).close()  # gRPC would print lines of its own about a taken port
            bound: int = server.add_secure_port(f"{self._settings.host}:{port}", credentials)
        except (OSError, OverflowError, RuntimeError) as error:
            raise PortTakenError(self._settings.host, port, what) from error
        if bound == 0:
            raise PortTakenError(self._settings.host, port, what)
        return bound

    async def _turn(self) -> None:
        """The wave engine: a pass at each news, and when time alone could move a rollout."""
        assert self._writer is not None
        beat_s, looked_s = 0.0, self._clock()
        while True:
            await self._wait(beat_s)
            self._news.clear()
            began_s = time.monotonic()
            try:
                looked_s = await self._writer.run(partial(self._look, looked_s=looked_s))
                if began_s - beat_s >= HEARTBEAT_S:
                    await self._writer.run(self._beat)
                    beat_s = began_s
            except Exception:  # the engine must outlive a full disk
                log.exception("engine pass failed; trying again")
                await asyncio.sleep(LIVE_TICK_S)
                self._news.set()
            took_s = time.monotonic() - began_s
            self._metrics.ticked(took_s)
            self._metrics.count(self.roster)
            await asyncio.sleep(min(ENGINE_SHARE * took_s, LIVE_TICK_S))

    def _look(self, session: Session, *, looked_s: float) -> float:
        """One pass of the engine; returns when it was. A pass that comes far too late means that this process was away."""
        now = self._clock()
        if now - looked_s > AWAY_S:
            log.warning("was away", extra={"seconds": round(now - looked_s)})
            self._engine.listen_anew(session, since_s=looked_s, now=now)
        self._engine.tick(session, now=now)
        return now

    async def _wait(self, beat_s: float) -> None:
        try:
            async with asyncio.timeout(self._due_s(beat_s)):
                await self._news.wait()
        except TimeoutError:
            return

    def _due_s(self, beat_s: float) -> float:
        """How long nothing can happen without news."""
        now = self._clock()
        due_s = max(0.0, HEARTBEAT_S - (time.monotonic() - beat_s))
        for rollout in self.roster.live():
            due_s = min(due_s, LIVE_TICK_S)
            if rollout.phase is WavePhase.SOAK and not rollout.paused:
                due_s = min(due_s, max(0.0, rollout.soak_clock_s + rollout.plan.soak_s - rollout.clock_s(now)))
        return due_s

    def _beat(self, session: Session) -> None:
        """Remember until when the server lived, and when devices were last seen."""
        now = self._clock()
        session.connection.execute(delete(tables.facts).where(tables.facts.c.name == "alive_until_s"))
        session.connection.execute(insert(tables.facts).values(name="alive_until_s", value=repr(now)))
        for device, at_s in list(self.roster.seen.items()):
            row = session.device(device)
            if row is not None and row.last_seen_s < at_s:
                session.put_device(replace(row, last_seen_s=at_s))

    async def _keep(self, repository: OnlineRepository) -> None:
        """Keep signed things in force, and the database small."""
        assert self._writer is not None
        while True:
            try:
                now = self._clock()
                if repository.timestamp_expires - utc(now) < TIMESTAMP_VALID * 0.75:
                    await asyncio.to_thread(repository.resign_timestamp, now=utc(now))
                self._metrics.timestamp_expires(repository.timestamp_expires.timestamp())
                await self._writer.run(lambda session: self._tidy(session, self._clock()))
            except Exception:  # signing goes on at the next turn; the metric shows when it does not
                log.exception("housekeeping failed; trying again")
            await asyncio.sleep(HOUSEKEEPING_S)

    def _tidy(self, session: Session, now: float) -> None:
        self._engine.refresh(session, now=now)
        old_s = now - REPORTS_KEPT.total_seconds()
        session.connection.execute(delete(tables.reports).where(tables.reports.c.received_s < old_s))
        session.connection.execute(delete(tables.tokens).where(tables.tokens.c.expires_s < old_s))
        self.roster.forget_old()


def _hold(folder: Path) -> IO[str]:
    """Hold the folder for this process. Raises FolderBusyError."""
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read(100).strip()
        file.close()
        raise FolderBusyError(str(folder), f"an orchestrator, {holder}") from error
    file.truncate(0)
    file.write(f"pid {os.getpid()}")
    file.flush()
    return file
