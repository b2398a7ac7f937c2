"""The agent's loop: sync, act on the assignment, tend the model, sleep as long as the server says.

One thread does all of it; answers come from other threads and never wait for it. A network that is down, a clock that is wrong, a disk that
is full, an identity that rotted or metadata that does not verify are shown in `status` and tried again; the device goes on answering.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import ReleaseError
from pipeline.releases.assignment import AssignmentRefusedError, verify_assignment
from pipeline.rollout import device, heard
from pipeline.rollout.device import RESTING, AssignmentRolledBackError, DeviceRecord, QueuedReport, Wanted
from pipeline.rollout.slots import Slots
from workers.edge import AGENT_VERSION
from workers.edge.enrol import IdentityError
from workers.edge.fleet_client import CertificateTimeError, FleetRefusedError, FleetUnreachableError
from workers.edge.folder import RecordFile
from workers.edge.incumbent import Incumbent
from workers.edge.install import Installer, InstallInterruptedError
from workers.edge.machine import UNKNOWN_MEMORY_BYTES, free_memory_bytes, runtime_version
from workers.edge.metrics import EdgeMetrics
from workers.edge.pauses import FIRST_SYNC_S, MIN_PAUSE_S, pause_s
from workers.edge.serving import Serving
from workers.edge.trust import MetadataRefusedError, MetadataUnreachableError, Trust, TrustedTime
from workers.rpc import fleet_pb2 as pb

logger = logging.getLogger(__name__)

REPORTS_PER_SYNC = 32
MAX_SYNC_S = 86_400.0
RENEWAL_BACKOFF_S, MAX_RENEWAL_BACKOFF_S = 60.0, 3600.0
"""Between two tries to renew a certificate; doubled each time, also where it worked and is due again: that is a clock far ahead."""

AWAY = (FleetUnreachableError, FleetRefusedError, IdentityError, OSError)
"""Why a call did not get through: the network, the fleet, or what this device has to show there."""
REFUSALS = (AssignmentRefusedError, AssignmentRolledBackError, ReleaseError, MetadataRefusedError, MetadataUnreachableError)
"""Of an assignment: shown, and asked for again at the next turn."""


class FleetCalls(Protocol):
    """The fleet's control call; `fleet_client.FleetClient` on a device."""

    def sync(self, request: pb.SyncRequest) -> pb.SyncResponse: ...


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the agent is doing, for a person and for `status`."""

    blocked: str
    """Why an install waits, or the last call failed; empty if neither."""
    clock_wrong: bool
    next_sync_s: float
    last_sync_unix_s: float
    """When the orchestrator answered last; 0 before it did."""


class Agent:
    """One device. `turn` is one round of the loop; `run` is the loop."""

    def __init__(
        self,
        *,
        name: Callable[[], str],
        hardware: str,
        record: RecordFile,
        slots: Slots,
        serving: Serving,
        fleet: FleetCalls,
        trust: Trust,
        installer: Callable[[Callable[[], None]], Installer],
        wall: Callable[[], float],
        rng: random.Random,
        metrics: EdgeMetrics,
        renew: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._name, self._hardware, self._record, self._serving = name, hardware, record, serving
        self._incumbent = Incumbent(record, slots, serving)
        self._fleet, self._trust, self._wall, self._rng, self._metrics = fleet, trust, wall, rng, metrics
        self._renew, self._stop = renew, stop
        self._installer = installer(self._announce)
        self._interval_s, self._failures, self._answered_unix_s = FIRST_SYNC_S, 0, 0.0
        self._sync_blocked, self._install_blocked, self._expired, self._tls_expired = "", "", False, False

    @property
    def record(self) -> DeviceRecord:
        """The last durable record."""
        return self._record.current

    @property
    def status(self) -> Status:
        blocked = self._record.locked or self._install_blocked or self._sync_blocked
        return Status(blocked=blocked, clock_wrong=self._clock_wrong, next_sync_s=self._interval_s, last_sync_unix_s=self._answered_unix_s)

    @property
    def trusted_time(self) -> TrustedTime:
        record = self._record.current
        is_void = record.signed_root < self._trust.root_version
        return TrustedTime(wall_unix_s=self._wall(), signed_unix_s=0 if is_void else record.signed_unix_s)

    def boot(self) -> None:
        """Answer with a verified model as soon as there is one, without any network, and with a full disk, too."""
        self._incumbent.boot()
        if not self._record.locked:
            with contextlib.suppress(OSError):  # a full disk: swept at the end of the next install
                self._installer.sweep()
        self._metrics.show(self._record.current, clock_wrong=self._clock_wrong)

    def run(self, on_turn: Callable[[float], None] = lambda rest_s: None) -> None:
        """Turn until stopped. The first turn has jitter too: after a power cut a whole fleet starts at once.

        `on_turn` hears that one ended, and how long the rest after it is.
        """
        rest_s = FIRST_SYNC_S * self._rng.random()
        while not self._stop.wait(rest_s):
            rest_s = self.turn()
            on_turn(rest_s)

    def turn(self) -> float:
        """One round. Returns seconds until the next one, with jitter."""
        self._incumbent.tend()
        self._renew()
        reached = self._sync()
        if self._record.current.state not in RESTING:
            before = self._record.current.sequence
            self._install()
            if self._record.current.sequence != before and reached and not self._stop.is_set():
                reached = self._sync()
        self._metrics.show(self._record.current, clock_wrong=self._clock_wrong)
        self._failures = 0 if reached else self._failures + 1
        return pause_s(self._interval_s, failures=self._failures, rng=self._rng)

    def _announce(self) -> None:
        self._sync()

    def _sync(self) -> bool:
        """One Sync. True if the server answered and what it said was taken over."""
        record = self._record.current
        slot = self._serving.slot
        request = pb.SyncRequest(
            reports=[_report(record, report) for report in record.reports[:REPORTS_PER_SYNC]],
            running_digest=slot.digest if slot is not None else "",
            assignment_generation=record.generation,
            hardware_class=self._hardware,
            agent_version=AGENT_VERSION,
            clock_wrong=self._clock_wrong,
            runtime_version=runtime_version(),
            free_memory_bytes=0 if (free := free_memory_bytes()) == UNKNOWN_MEMORY_BYTES else free,
            serving=self._serving.window.told(),
            arrival=_arrival(record, slot.digest if slot is not None else ""),
        )
        try:
            response = self._fleet.sync(request)
        except AWAY as error:
            self._metrics.sync("refused" if isinstance(error, FleetRefusedError) else "unreachable")
            if str(error) != self._sync_blocked:
                logger.warning("sync failed", extra={"reason": str(error)})
            self._sync_blocked, self._tls_expired = str(error), isinstance(error, CertificateTimeError)
            return False
        self._metrics.sync("ok")
        self._answered_unix_s = self._wall()
        acknowledged = heard.acknowledge(self._record.current, response.acknowledged_incarnation, response.acknowledged_sequence)
        try:
            self._record.save(heard.outlive(acknowledged, response.acknowledged_incarnation))
        except OSError as error:
            self._sync_blocked = str(error)
            return False
        self._sync_blocked, self._tls_expired = "", False
        if response.next_sync_s > 0:
            self._interval_s = min(max(response.next_sync_s, MIN_PAUSE_S), MAX_SYNC_S)
        if response.assignment and not self._record.locked:
            self._take(response.assignment)
        return True

    def _take(self, envelope: bytes) -> None:
        """Accept a verified assignment of this device, or say why not."""
        name = self._name()
        try:
            keys = self._trust.keys()
            try:
                assignment = verify_assignment(envelope, keys, device=name, now=self.trusted_time.now)
            except AssignmentRefusedError:
                self._learn(self._trust.refresh(self.trusted_time.now))  # the keys may be new
                keys = self._trust.keys()
                assignment = verify_assignment(envelope, keys, device=name, now=self.trusted_time.now)
            self._learn(int(assignment.issued.timestamp()))
            wanted = Wanted(generation=assignment.generation, target=assignment.target, digest=assignment.digest)
            self._record.save(device.assign(self._record.current, wanted, owner=name, key=assignment.keyid, trusted=keys))
        except (*REFUSALS, OSError) as error:
            self._block(error)
        else:
            self._unblock()

    def _install(self) -> None:
        state = self._record.current.state
        try:
            self._installer.advance()
        except (*AWAY, MetadataRefusedError, MetadataUnreachableError) as error:
            self._block(error)
        except InstallInterruptedError:
            return
        else:
            self._unblock()
            record = self._record.current
            self._metrics.installed(record.state)
            logger.info("install ended", extra={"from": state, "state": record.state, "code": record.code, "detail": record.detail})

    def _learn(self, signed_unix_s: int) -> None:
        self._record.save(heard.learn_time(self._record.current, signed_unix_s, self._trust.root_version))

    def _block(self, error: Exception) -> None:
        if str(error) != self._install_blocked:
            logger.warning("install waits", extra={"reason": str(error)})
        self._install_blocked = str(error)
        self._expired = isinstance(error, MetadataRefusedError) and error.by_clock

    def _unblock(self) -> None:
        self._install_blocked, self._expired = "", False

    @property
    def _clock_wrong(self) -> bool:
        """The wall clock is behind signed time, or all fresh metadata, or the orchestrator's certificate, is not in force by it."""
        return self.trusted_time.wall_is_behind or self._expired or self._tls_expired


def renewal(due: Callable[[], bool], renew: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """Renew a certificate when due. A failure is tried again after a while; the old one still works, or says itself that it does not."""
    not_before_s, backoff_s = 0.0, RENEWAL_BACKOFF_S

    def step() -> None:
        nonlocal not_before_s, backoff_s
        if not due():
            not_before_s, backoff_s = 0.0, RENEWAL_BACKOFF_S
        elif clock() >= not_before_s:
            not_before_s, backoff_s = clock() + backoff_s, min(2 * backoff_s, MAX_RENEWAL_BACKOFF_S)
            try:
                renew()
            except AWAY as error:
                logger.warning("certificate not renewed", extra={"reason": str(error)})

    return step


def _arrival(record: DeviceRecord, running: str) -> pb.Arrival | None:
    """How what runs came; None where that is not what was downloaded last."""
    came = record.arrival
    if came is None or came.digest != running:
        return None
    return pb.Arrival(way=f"FETCH_WAY_{came.way.upper()}", fetched_bytes=came.fetched_bytes)


def _report(record: DeviceRecord, report: QueuedReport) -> pb.Report:
    message = pb.Report(
        incarnation=record.incarnation,
        sequence=report.sequence,
        generation=report.generation,
        digest=report.digest,
        state=f"DEVICE_STATE_{report.state}",
        failure_code=report.code,
        detail=report.detail,
    )
    if report.shadow is not None:
        message.shadow.CopyFrom(pb.ShadowEvidence(**vars(report.shadow)))
    return message
