"""One device as a process: puts the parts together, says when it is ready, ends promptly.

Order matters: lock, answering (from the disk; no network, no identity needed), enrolment, then the loop. The loop's thread is never
waited for longer than a moment: everything it does may be cut off anywhere.
"""

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.rollout.device import State
from pipeline.rollout.slots import Slot, Slots
from workers.edge import AGENT_VERSION, BUILD_UNIX_S
from workers.edge.agent import AWAY, Agent, renewal
from workers.edge.allowance import AskOptions
from workers.edge.asking import Asking
from workers.edge.connection import Connection
from workers.edge.download import arrived_bytes
from workers.edge.fleet_client import FleetUnreachableError
from workers.edge.folder import DeviceFolder, FolderLock, RecordFile
from workers.edge.install import Installer, Pace
from workers.edge.local_api import LocalApi, LocalServer
from workers.edge.machine import hardware_class, probe
from workers.edge.metrics import EdgeMetrics
from workers.edge.model_process import ModelProcess
from workers.edge.serving import Serving
from workers.edge.supervisor import Pulse, Supervisor
from workers.edge.trust import Trust, TrustedTime
from workers.metrics import MetricsServer
from workers.rpc import local_pb2 as local_pb

logger = logging.getLogger(__name__)
AFTER_BUG_S = 10.0
ENROL_RETRY_S = 1.0
SILENCE_S = 600.0
"""The loop is hung when so long nothing arrives, no model starts and no turn ends, beside what it waits for on purpose."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `kdpipe edge run` was asked for."""

    folder: Path
    enrolment: Path | None = None
    hardware: str | None = None
    metrics_port: int | None = None
    exit_with_parent: bool = False
    pace: Pace = field(default_factory=Pace)
    ask: AskOptions = field(default_factory=AskOptions)
    seed: int | None = None


def run_device(options: Options) -> None:
    """Run until SIGTERM, SIGINT or, if asked, the end of standard input. Raises FolderBusyError and, on a device that has nothing to answer
    with, what enrolment raises.
    """
    stop, supervisor = threading.Event(), Supervisor(os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.exit_with_parent:
        threading.Thread(target=_stop_at_eof, args=(stop,), name="parent", daemon=True).start()
    folder, hardware = DeviceFolder(options.folder.absolute()), options.hardware or hardware_class()
    lock, pulse = FolderLock(folder.path), Pulse(SILENCE_S + options.pace.shadow_s + options.pace.trial_s)
    metrics_server = MetricsServer(port=options.metrics_port) if options.metrics_port is not None else None
    metrics = EdgeMetrics(metrics_server.registry if metrics_server else MetricsServer().registry)
    connection = Connection(folder.identity, options.enrolment, hardware)
    serving = Serving(ModelProcess.start, on_restart=metrics.restarted)
    agent = _agent(folder, connection, serving, metrics, hardware, options, stop, pulse)
    asking = Asking(options.ask, line=connection, window=serving.window, metrics=metrics, rng=random.Random(options.seed))
    status = partial(_status, folder, agent, serving, connection, asking)
    server = LocalServer(folder.socket, LocalApi(serving, status=status, metrics=metrics, asking=asking))
    try:
        supervisor.ready()  # before the first start: however long a model hangs in it, nobody cuts it off before the next one's turn
        threading.Thread(target=supervisor.watch, args=(pulse, stop), name="watchdog", daemon=True).start()
        agent.boot()
        asking.start()
        server.start()
        _wait_enrolled(connection, stop, pulse, answers=agent.record.incumbent is not None)
        ready: dict[str, Any] = {"ready": True, "device": connection.device, "socket": str(folder.socket)}
        if metrics_server:
            ready["metrics_port"] = metrics_server.start()
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        threading.Thread(target=_loop, args=(agent, stop, pulse), name="agent", daemon=True).start()
        stop.wait()
    finally:
        supervisor.stopping()
        stop.set()
        asking.close()
        connection.close()
        server.close()
        serving.close()
        if metrics_server:
            metrics_server.close()
        lock.release()


def _agent(
    folder: DeviceFolder,
    connection: Connection,
    serving: Serving,
    metrics: EdgeMetrics,
    hardware: str,
    options: Options,
    stop: threading.Event,
    pulse: Pulse,
) -> Agent:
    record = RecordFile(folder.state, incarnation=int(max(time.time(), BUILD_UNIX_S) * 1000))
    slots = Slots(folder.slots)
    trust = Trust(folder.tuf, root=connection.root, fetch=connection.metadata)

    def trusted_now() -> datetime:
        return TrustedTime(wall_unix_s=time.time(), signed_unix_s=record.current.signed_unix_s).now

    def start(slot: Slot, niceness: int) -> ModelProcess:
        pulse.beat()
        return ModelProcess.start(slot, niceness)

    def arrived(size: int) -> None:
        pulse.beat()
        metrics.downloaded(size)

    installer = partial(
        Installer,
        record=record,
        slots=slots,
        downloads_folder=folder.downloads,
        trust=trust,
        fetch=connection.fetch,
        serving=serving,
        start=start,
        probe=partial(probe, folder.path, hardware),
        trusted_now=trusted_now,
        stop=stop,
        pace=options.pace,
        on_bytes=arrived,
        on_fetched=lambda fetched: metrics.fetched(fetched.way, refused=fetched.refused),
    )
    return Agent(
        name=lambda: connection.device,
        hardware=hardware,
        record=record,
        slots=slots,
        serving=serving,
        fleet=connection,
        trust=trust,
        installer=lambda announce: installer(announce=announce),
        wall=time.time,
        rng=random.Random(options.seed),
        metrics=metrics,
        renew=renewal(lambda: connection.renewal_due(trusted_now()), connection.renew),
        stop=stop,
    )


def _loop(agent: Agent, stop: threading.Event, pulse: Pulse) -> None:
    """The loop, again after an error that nobody foresaw: a device that still answers is better than one that ended. Where every turn ends
    so, the pulse stops, and the supervisor begins anew."""
    while not stop.is_set():
        try:
            agent.run(pulse.beat)
        except Exception:
            if not stop.is_set():
                logger.exception("the agent's loop failed; it starts again")
                stop.wait(AFTER_BUG_S)


def _wait_enrolled(connection: Connection, stop: threading.Event, pulse: Pulse, *, answers: bool) -> None:
    """A device with nothing to answer with waits for its orchestrator, and ends where somebody must help. One that answers goes on
    without an identity: its status shows why, and each turn tries again.
    """
    while not stop.is_set():
        pulse.beat()
        try:
            connection.open()
            return
        except AWAY as error:
            if not answers and not isinstance(error, FleetUnreachableError):
                raise
            logger.warning("not enrolled yet", extra={"reason": str(error)})
            if answers:
                return
            stop.wait(ENROL_RETRY_S)


def _status(folder: DeviceFolder, agent: Agent, serving: Serving, connection: Connection, asking: Asking) -> local_pb.GetStatusResponse:
    record, status, slot = agent.record, agent.status, serving.slot
    downloads = record.state is State.DOWNLOAD and record.release is not None
    return local_pb.GetStatusResponse(
        device=connection.device,
        agent_version=AGENT_VERSION,
        state=record.state,
        code=record.code,
        detail=record.detail,
        generation=record.generation,
        wanted=local_pb.Wanted(**vars(record.wanted)) if record.wanted else None,
        incumbent=local_pb.Installed(**vars(record.incumbent)) if record.incumbent else None,
        previous=local_pb.Installed(**vars(record.previous)) if record.previous else None,
        running_digest=slot.digest if slot else "",
        input=local_pb.Input(kind=slot.manifest.input.kind, width=slot.manifest.input.width) if slot else None,
        arrival=local_pb.Arrival(**vars(record.arrival)) if record.arrival else None,
        downloaded_bytes=arrived_bytes(folder.downloads) if downloads else 0,
        wanted_bytes=record.release.length if downloads and record.release else 0,
        blocked=status.blocked,
        clock_wrong=status.clock_wrong,
        last_sync_unix_s=status.last_sync_unix_s,
        next_sync_s=status.next_sync_s,
        reports_queued=len(record.reports),
        trusted_time=agent.trusted_time.now.isoformat(),
        asking=asking.shown(),
    )


def _stop_at_eof(stop: threading.Event) -> None:
    while os.read(0, 4096):  # not through sys.stdin, whose lock would be held at exit
        pass
    stop.set()
