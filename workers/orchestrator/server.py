"""The orchestrator's life: open what it needs, serve, stop in order.

One process is a replica; several on one database are a fleet's orchestrator together (`leadership` says which runs the wave engine).
Everything that must survive is in the database or the repository before a call is answered, so that a kill at any
instruction is a restart.
"""

import asyncio
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from securesystemslib.signer import Signer
from sqlalchemy import Engine as Database

from pipeline.errors import FolderBusyError
from pipeline.files import make_private_folder
from pipeline.releases.keys import Unlock, load_key
from pipeline.releases.online import OnlineRepository
from workers.metrics import MetricsServer
from workers.orchestrator import tables
from workers.orchestrator.answering import Answering
from workers.orchestrator.asking import Teacher
from workers.orchestrator.engine import Engine
from workers.orchestrator.enrolment import Enrolment
from workers.orchestrator.fleet import Artifact, Fleet
from workers.orchestrator.identity import authenticator
from workers.orchestrator.leadership import LEASE_S, Leadership, replica_name
from workers.orchestrator.limits import Limits
from workers.orchestrator.listening import MAX_DEVICE_MESSAGE_BYTES, Listeners, Services
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.operations import Operations
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.pki import Pki, ensure_pki, renew_own, utc
from workers.orchestrator.ports import Ports, choose, read_ports, settled, write_ports
from workers.orchestrator.roster import Roster
from workers.orchestrator.teacher_process import TeacherEnd
from workers.orchestrator.turns import Turns
from workers.orchestrator.writer import Writer

__all__ = ["MAX_DEVICE_MESSAGE_BYTES", "Orchestrator", "Settings"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the orchestrator lives and listens."""

    folder: Path
    """This replica's own: certificates, ports, and the database where it is SQLite."""
    repository: Path
    keys: Path
    """Folder of the online keys: snapshot, timestamp, assignment."""
    unlock: Unlock = field(default_factory=Unlock, repr=False)
    """What opens them."""
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    pacing: Pacing = field(default_factory=Pacing)
    limits: Limits = field(default_factory=Limits)
    database_url: str = ""
    """Empty is SQLite in `folder`."""
    ca_folder: Path | None = None
    """Where replicas share the CA's private key; None is `folder`'s own."""
    names: tuple[str, ...] = ()
    """Further names and addresses by which devices reach this replica."""
    open_teacher: Callable[[], TeacherEnd] | None = None
    """Makes the end of a teacher that devices may ask, not yet started; None where nobody answers them."""
    lease_s: float = LEASE_S
    """How long the leader may be silent before another replica leads."""


class Orchestrator:
    """`start`, then `stop`. All of it on one event loop, but for the writer's thread."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._lock: IO[str] | None = None
        self._database: Database | None = None
        self._writer: Writer | None = None
        self._listeners: Listeners | None = None
        self._turns: Turns | None = None
        self._answering: Answering | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics_server = MetricsServer(host=settings.host)
        self.roster = Roster(clock)
        self.ports = Ports()

    async def start(self) -> Ports:
        """Serve. Raises FolderBusyError, PortTakenError, ReleaseError, PkiBrokenError, DatabaseUnusableError."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Answer what is being asked, then close everything. A second call does nothing."""
        if self._listeners is not None:
            await self._listeners.stop()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._writer is not None:
            if self._turns is not None:
                await self._turns.end()
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
        pki = ensure_pki(folder / "pki", host=settings.host, now=utc(now), names=settings.names, ca_folder=settings.ca_folder)
        repository = OnlineRepository(settings.repository, settings.keys, settings.unlock)
        self._database = tables.open_database(settings.database_url or tables.database_url(folder))
        with self._database.begin() as connection:
            self.roster.load(connection)
        wanted = settled(choose(settings.ports, read_ports(folder)), settings.host)
        self._metrics_server = MetricsServer(host=settings.host, port=wanted.metrics)
        metrics = OrchestratorMetrics(self._metrics_server)
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._writer = Writer(self._database, self.roster, on_commit=metrics.committed, on_foreign=_telling(loop, news))
        own_signer = partial(_assignment_key, settings, repository)
        engine = Engine(self.roster, repository, own_signer(), started_s=now, pacing=settings.pacing)
        leadership = Leadership(replica_name(folder, socket.gethostname()), patience_s=settings.lease_s)
        authenticate = authenticator(self.roster, self._writer, self._clock)
        self._listeners = Listeners(host=settings.host, pki=pki, authenticate=authenticate, limits=settings.limits, metrics=metrics)
        self._turns = Turns(
            roster=self.roster,
            writer=self._writer,
            engine=engine,
            repository=repository,
            leadership=leadership,
            metrics=metrics,
            listeners=self._listeners,
            clock=self._clock,
            lease_s=settings.lease_s,
            news=news,
            own_signer=own_signer,
            own_pki=lambda: renew_own(
                folder / "pki", pki.ca_pem, pki.ca, pki.ca_key, host=settings.host, names=settings.names, now=utc(self._clock())
            ),
        )
        await self._turns.begin()
        bound = await self._listeners.start(self._services(engine, leadership, pki, repository, metrics, news), wanted)
        self.ports = replace(bound, metrics=self._metrics_server.start())
        write_ports(folder, self.ports)
        self._begin(self._turns.run(), "turns")
        log.info("serving", extra={"devices": len(self.roster.devices), "rollouts": len(self.roster.rollouts)})
        return self.ports

    def _begin(self, work: Coroutine[Any, Any, None], part: str) -> None:
        """Do it beside the calls, until `stop`."""
        task = asyncio.create_task(work, name=part)
        task.add_done_callback(_tell_end)
        self._tasks.append(task)

    def _services(
        self,
        engine: Engine,
        leadership: Leadership,
        pki: Pki,
        repository: OnlineRepository,
        metrics: OrchestratorMetrics,
        news: asyncio.Event,
    ) -> Services:
        limits = self._settings.limits
        if self._settings.open_teacher is not None:
            self._answering = Answering(self._settings.open_teacher, most=limits.asks_at_once, metrics=metrics)
            self._begin(self._answering.run(), "answering")
        common: dict[str, Any] = {"clock": self._clock, "metrics": metrics, "roster": self.roster, "writer": self._writer, "news": news.set}
        return Services(
            fleet=Fleet(engine=engine, repository=repository, pacing=self._settings.pacing, limits=limits, **common),
            artifact=Artifact(repository=repository, metrics=metrics, limits=limits),
            teacher=Teacher(answering=self._answering, limits=limits, metrics=metrics),
            enrolment=Enrolment(pki=pki, limits=limits, **common),
            operator=Operations(
                engine=engine,
                leadership=leadership,
                repository=repository,
                pacing=self._settings.pacing,
                ports=lambda: self.ports,
                **common,
            ),
        )


def _tell_end(task: asyncio.Task[None]) -> None:
    """What no part should raise must not go unheard until the orchestrator stops."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a part of the orchestrator ended", exc_info=error, extra={"part": task.get_name()})


def _assignment_key(settings: Settings, repository: OnlineRepository) -> Signer:
    """The key that signs assignments. Raises KeyNotListedError where devices would not believe it, and what `load_key` raises."""
    path = settings.keys / "assignment.pem"
    signer = load_key(path, settings.unlock)
    repository.check_assignments(signer, path)
    return signer


def _telling(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> Callable[[], None]:
    """What the writer's thread calls when another replica changed something."""

    def tell() -> None:
        loop.call_soon_threadsafe(news.set)

    return tell


def _hold(folder: Path) -> IO[str]:
    """Hold the folder for this process. Raises FolderBusyError."""
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read(100).strip()
        file.close()
        ends = f"`kill {holder.removeprefix('pid ')}` ends it, and where a run started it, `kdpipe stop DIR` does"
        raise FolderBusyError(str(folder), f"an orchestrator, {holder}", ends) from error
    file.truncate(0)
    file.write(f"pid {os.getpid()}")
    file.flush()
    return file
