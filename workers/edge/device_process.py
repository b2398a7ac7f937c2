"""One device as a process: puts the parts together, says when it is ready, ends promptly.

Order matters: lock, enrolment, answering (from disk, no network needed), then the loop. The loop's thread is never waited for longer than a
moment: everything it does may be cut off anywhere.
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

from pipeline.files import make_private_folder
from pipeline.rollout.device import State
from pipeline.rollout.slots import Slots
from workers.edge import AGENT_VERSION, BUILD_UNIX_S
from workers.edge.agent import Agent, renewal
from workers.edge.download import arrived_bytes
from workers.edge.enrol import Fleet, Identity, enrol, load_identity, renew
from workers.edge.fleet_client import EnrolmentClient, FleetClient, FleetUnreachableError
from workers.edge.folder import DeviceFolder, FolderLock, RecordFile
from workers.edge.install import Installer, Pace
from workers.edge.local_api import LocalApi, LocalServer
from workers.edge.machine import hardware_class, probe
from workers.edge.metrics import EdgeMetrics
from workers.edge.model_process import ModelProcess
from workers.edge.serving import Serving
from workers.edge.supervisor import Supervisor
from workers.edge.trust import Trust, TrustedTime
from workers.metrics import MetricsServer
from workers.rpc import fleet_pb2 as pb
from workers.rpc import local_pb2 as local_pb

logger = logging.getLogger(__name__)
AFTER_BUG_S = 10.0
ENROL_RETRY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `kdpipe edge run` was asked for."""

    folder: Path
    enrolment: Path | None = None
    hardware: str | None = None
    metrics_port: int | None = None
    exit_with_parent: bool = False
    pace: Pace = field(default_factory=Pace)
    seed: int | None = None


class Connection:
    """The fleet's calls over a channel that is replaced when the certificate is."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._folder = folder
        self.identity = identity
        self._client = _connect(identity)

    def sync(self, request: pb.SyncRequest) -> pb.SyncResponse:
        return self._client.sync(request)

    def metadata(self, name: str) -> bytes:
        return self._client.metadata(name)

    def fetch(self, digest: str, offset: int) -> Any:
        return self._client.fetch(digest, offset)

    def renew(self) -> None:
        with EnrolmentClient(self.identity.fleet.endpoint_enrolment, self.identity.fleet.ca_pem) as client:
            self.identity = renew(self._folder, self.identity, client)
        old, self._client = self._client, _connect(self.identity)
        old.close()

    def close(self) -> None:
        self._client.close()


def run_device(options: Options) -> None:
    """Run until SIGTERM, SIGINT or, if asked, the end of standard input. Raises what enrolment raises, FolderBusyError."""
    stop, supervisor = threading.Event(), Supervisor(os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.exit_with_parent:
        threading.Thread(target=_stop_at_eof, args=(stop,), name="parent", daemon=True).start()
    folder, hardware = DeviceFolder(options.folder.absolute()), options.hardware or hardware_class()
    lock = FolderLock(folder.path)
    identity = _identity(folder, options.enrolment, hardware, stop)
    if identity is None:
        return
    metrics_server = MetricsServer(port=options.metrics_port) if options.metrics_port is not None else None
    metrics = EdgeMetrics(metrics_server.registry if metrics_server else MetricsServer().registry)
    connection = Connection(folder.identity, identity)
    serving = Serving(ModelProcess.start, on_restart=metrics.restarted)
    agent = _agent(folder, connection, serving, metrics, hardware, options, stop)
    server = LocalServer(
        folder.socket, LocalApi(serving, status=partial(_status, folder, agent, serving, identity.device), metrics=metrics)
    )
    try:
        agent.boot()
        server.start()
        ready: dict[str, Any] = {"ready": True, "device": identity.device, "socket": str(folder.socket)}
        if metrics_server:
            ready["metrics_port"] = metrics_server.start()
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        loop = threading.Thread(target=_loop, args=(agent, stop), name="agent", daemon=True)
        loop.start()
        supervisor.ready()
        while not stop.wait(supervisor.watchdog_s and supervisor.watchdog_s / 3):
            if loop.is_alive():
                supervisor.alive()
    finally:
        supervisor.stopping()
        stop.set()
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
) -> Agent:
    born_unix_s = connection.identity.certificate.not_valid_before_utc.timestamp()
    record = RecordFile(folder.state, incarnation=int(max(time.time(), BUILD_UNIX_S, born_unix_s) * 1000))
    slots = Slots(folder.slots)
    trust = Trust(folder.tuf, root=connection.identity.fleet.root.encode(), fetch=connection.metadata)

    def trusted_now() -> datetime:
        return TrustedTime(wall_unix_s=time.time(), signed_unix_s=record.current.signed_unix_s).now

    installer = partial(
        Installer,
        record=record,
        slots=slots,
        downloads_folder=folder.downloads,
        trust=trust,
        fetch=connection.fetch,
        serving=serving,
        start=ModelProcess.start,
        probe=partial(probe, folder.path, hardware),
        trusted_now=trusted_now,
        stop=stop,
        pace=options.pace,
        on_bytes=metrics.downloaded,
        on_fetched=lambda fetched: metrics.fetched(fetched.way, refused=fetched.refused),
    )
    return Agent(
        name=connection.identity.device,
        hardware=hardware,
        record=record,
        slots=slots,
        serving=serving,
        fleet=connection,
        trust=trust,
        installer=lambda announce: installer(announce=announce),
        wall=time.time,
        rng=random.Random(options.seed if options.seed is not None else connection.identity.device),
        metrics=metrics,
        renew=renewal(lambda: connection.identity.renewal_due(trusted_now()), connection.renew),
        stop=stop,
    )


def _loop(agent: Agent, stop: threading.Event) -> None:
    """The loop, again after an error that nobody foresaw: a device that still answers is better than one that ended."""
    while not stop.is_set():
        try:
            agent.run()
        except Exception:
            if not stop.is_set():
                logger.exception("the agent's loop failed; it starts again")
                stop.wait(AFTER_BUG_S)


def _identity(folder: DeviceFolder, enrolment: Path | None, hardware: str, stop: threading.Event) -> Identity | None:
    """The device's identity, enrolling if needed; None if stopped while the orchestrator could not be reached."""
    if enrolment is None or folder.certificate.exists():
        return load_identity(folder.identity)
    make_private_folder(folder.path)
    while not stop.is_set():
        try:
            return enrol(folder.identity, enrolment, _connect_enrolment, hardware_class=hardware)
        except FleetUnreachableError as error:
            logger.warning("not enrolled yet", extra={"reason": str(error)})
            stop.wait(ENROL_RETRY_S)
    return None


def _connect_enrolment(fleet: Fleet) -> EnrolmentClient:
    return EnrolmentClient(fleet.endpoint_enrolment, fleet.ca_pem)


def _connect(identity: Identity) -> FleetClient:
    fleet = identity.fleet
    return FleetClient(fleet.endpoint_fleet, ca_pem=fleet.ca_pem, key_pem=identity.key_pem, certificate_pem=identity.certificate_pem)


def _status(folder: DeviceFolder, agent: Agent, serving: Serving, device: str) -> local_pb.GetStatusResponse:
    record, status, slot = agent.record, agent.status, serving.slot
    downloads = record.state is State.DOWNLOAD and record.release is not None
    return local_pb.GetStatusResponse(
        device=device,
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
    )


def _stop_at_eof(stop: threading.Event) -> None:
    while os.read(0, 4096):  # not through sys.stdin, whose lock would be held at exit
        pass
    stop.set()
