"""What the database says, in memory: every device and the rollouts that matter now.

Changed by the writer thread alone, after its commit, by replacing whole immutable values; other threads read without a lock and see the
state before a transaction or after it. What other replicas committed comes in by `catch_up`, at the start of each transaction and
at least every so often (`turns`). `seen` and `served` are the exception: a device's last call, and what it told of its answers, is noted at
once by whoever answers it, and reaches the others with the next heartbeat (`presence`). Times of calls are by this replica's clock.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, bindparam, select

from pipeline.rollout.events import Event, RolloutLogBrokenError, check_chain, follow, stored_event
from pipeline.rollout.evidence import DeviceFacts, Progress
from pipeline.rollout.rollout import LIVE, Rollout, RolloutState, apply, fold
from pipeline.rollout.waves import awaited
from workers.orchestrator import tables
from workers.orchestrator.presence import recall
from workers.orchestrator.remembered import forgotten, worth_reading
from workers.orchestrator.served import Served, read_served

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BrokenLog:
    """A rollout that nobody leads, because its log is not what was written."""

    rollout_id: str
    population: str
    error: RolloutLogBrokenError


@dataclass(frozen=True, kw_only=True)
class DeviceRow:
    """One device, its newest report and its present assignment; the columns of `tables.devices`."""

    device_id: str
    population: str
    hardware: str
    agent_version: str = ""
    enrolled_s: float = 0.0
    is_revoked: bool = False
    last_seen_s: float = 0.0
    running_digest: str = ""
    clock_wrong: bool = False
    incarnation: int = 0
    sequence: int = 0
    device_generation: int = 0
    """Highest assignment generation that the device says it has accepted."""
    state: int = 0
    """Number of the device's state on the wire, as last reported."""
    failure_code: str = ""
    progress: str = Progress.SILENT
    """With the present assignment; reports about others do not move it."""
    progress_s: float = 0.0
    generation: int = 0
    target: str = ""
    digest: str = ""
    envelope: bytes = b""
    expires_s: float = 0.0
    labels: str = ""
    """`name=value`, sorted, with commas between."""
    runtime: str = ""
    free_memory_bytes: int = 0

    def facts(self, last_seen_s: float, served: Served | None = None) -> DeviceFacts:
        """What rollout decisions may know of it."""
        return DeviceFacts(
            hardware=self.hardware,
            is_revoked=self.is_revoked,
            last_seen_s=last_seen_s,
            target=self.target,
            digest=self.digest,
            progress=Progress(self.progress),
            progress_s=self.progress_s,
            failure_code=self.failure_code,
            running_digest=self.running_digest,
            labels=frozenset(self.labels.split(",")) if self.labels else frozenset(),
            runtime=self.runtime,
            free_memory_bytes=self.free_memory_bytes,
            serving=served.serving if served is not None and served.digest == self.running_digest else None,
        )

    def columns(self) -> dict[str, object]:
        return dict(vars(self))


_REVISION = select(tables.changes.c.revision).with_for_update()
_DEVICES_SINCE = select(tables.devices).where(tables.devices.c.revision > bindparam("since"))
_ROLLOUTS_SINCE = select(tables.rollouts.c.rollout_id, tables.rollouts.c.population).where(tables.rollouts.c.revision > bindparam("since"))

_REVOKED_SINCE = select(tables.revoked_operators.c.name).where(tables.revoked_operators.c.revision > bindparam("since"))


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """How the release that a device runs came, as it told."""

    digest: str
    way: int
    """Number of `kdpipe.fleet.v1.FetchWay`."""
    fetched_bytes: int


class Roster:
    """The image. `load` once, then only the writer's transactions change it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.devices: dict[str, DeviceRow] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.broken: dict[str, BrokenLog] = {}
        """Rollouts whose log did not hold when it was read; a restart reads it anew."""
        self.seen: dict[str, float] = {}
        self.served: dict[str, Served] = {}
        """As `seen`: noted at once, written and read with each beat (`turns`)."""
        self.arrived: dict[str, Arrived] = {}
        """In memory only: every call tells it."""
        self.revoked_operators: frozenset[str] = frozenset()
        self.revision = 0
        """Number of the last change that this image has."""
        self._waited_for: tuple[list[Rollout], frozenset[str]] = [], frozenset()
        """Of which rollouts, and the devices."""

    def load(self, connection: Connection) -> None:
        """Read everything. A rollout whose log was tampered with is among `broken`."""
        self.revision = connection.execute(_REVISION).scalar_one()
        now, told = self._clock(), recall(connection)
        for row in map(_device, connection.execute(select(tables.devices)).mappings()):
            seen_s = min(max(row.last_seen_s, told.get(row.device_id, 0.0)), now)
            self.devices[row.device_id], self.seen[row.device_id] = replace(row, last_seen_s=seen_s), seen_s
        self.served = dict(read_served(connection))
        self.revoked_operators = frozenset(connection.execute(_REVOKED_SINCE, {"since": 0}).scalars())
        for rollout_id, population in worth_reading(connection):
            self._read(connection, rollout_id, population)

    def catch_up(self, connection: Connection) -> bool:
        """Take in what other replicas have committed; True where there was anything. The transaction holds the lock from here on."""
        revision = connection.execute(_REVISION).scalar_one()
        if revision == self.revision:
            return False
        since = {"since": self.revision}
        for row in connection.execute(_DEVICES_SINCE, since).mappings():
            self._follow(_device(row))
        for rollout_id, population in connection.execute(_ROLLOUTS_SINCE, since).all():
            self._read(connection, rollout_id, population)
        self.revoked_operators |= frozenset(connection.execute(_REVOKED_SINCE, since).scalars())
        self.revision = revision
        return True

    def _follow(self, row: DeviceRow) -> None:
        """Take in a device that another replica changed; where it has reported there, it has called just now."""
        device, known = row.device_id, self.devices.get(row.device_id)
        before = (known.incarnation, known.sequence) if known is not None else (0, 0)
        if (row.incarnation, row.sequence) != before:
            self.seen[device] = self._clock()
        self.devices[device] = replace(row, last_seen_s=self.seen.get(device, 0.0))

    def _read(self, connection: Connection, rollout_id: str, population: str) -> None:
        """Take in a rollout, or what its log has beyond what is known of it."""
        if rollout_id in self.broken:
            return
        known = self.rollouts.get(rollout_id)
        try:
            self.rollouts[rollout_id] = read_rollout(connection, rollout_id) if known is None else read_on(connection, known)
            return
        except RolloutLogBrokenError as error:
            broken = error
        except (KeyError, TypeError, ValueError) as error:
            broken = RolloutLogBrokenError(rollout_id, 1, f"{error}"[:200], "a log that folds")
        self.rollouts.pop(rollout_id, None)
        self.broken[rollout_id] = BrokenLog(rollout_id=rollout_id, population=population, error=broken)
        log.error("log of a rollout is broken, nobody leads it", extra={"rollout": rollout_id, "why": str(broken)})

    def broken_in(self, population: str) -> BrokenLog | None:
        """What of a population is broken, if anything: nothing new is begun there."""
        return next((broken for broken in list(self.broken.values()) if broken.population == population), None)

    def population(self, name: str) -> list[DeviceRow]:
        return [row for row in list(self.devices.values()) if row.population == name]

    def live(self, population: str | None = None) -> list[Rollout]:
        """Rollouts that time or a report can move; a halted one is among them, an operator may resume it."""
        moving = LIVE | {RolloutState.HALTED}
        return [r for r in list(self.rollouts.values()) if r.state in moving and population in (None, r.plan.population)]

    def is_busy(self, population: str) -> bool:
        return any(r.plan.population == population and r.state in LIVE for r in list(self.rollouts.values()))

    def waited_for(self) -> frozenset[str]:
        """Devices whose next call a rollout waits for: it has offered them its release, or does when they are there."""
        live = self.live()
        known, devices = self._waited_for
        if len(known) != len(live) or any(one is not other for one, other in zip(known, live, strict=True)):
            devices = frozenset(device for rollout in live for device in awaited(rollout))
            self._waited_for = live, devices
        return devices

    def forget_old(self) -> None:
        """Drop what need not be in memory (`remembered`)."""
        for rollout_id in forgotten(list(self.rollouts.values())):
            del self.rollouts[rollout_id]


def read_rollout(connection: Connection, rollout_id: str) -> Rollout:
    """Fold one rollout from its stored log. Raises RolloutLogBrokenError."""
    events = read_events(connection, rollout_id)
    check_chain(rollout_id, events)
    return fold(events)


def read_on(connection: Connection, rollout: Rollout) -> Rollout:
    """The rollout with the events that its stored log has beyond it. Raises RolloutLogBrokenError."""
    rollout_id = rollout.plan.rollout_id
    for event in read_events(connection, rollout_id, after=rollout.sequence):
        due = rollout.sequence + 1
        expected = follow(sequence=due, previous=rollout.head, at_s=event.at_s, kind=event.kind, facts=event.facts).hash
        if event.sequence != due or event.hash != expected:
            raise RolloutLogBrokenError(rollout_id, due, event.hash, expected)
        rollout = apply(rollout, event)
    return rollout


def read_events(connection: Connection, rollout_id: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
    """Events of a stored log from sequence number `after` on, not checked against each other. Raises RolloutLogBrokenError."""
    table = tables.rollout_events
    wanted = (table.c.rollout_id == rollout_id) & (table.c.sequence > after)
    rows = connection.execute(select(table).where(wanted).order_by(table.c.sequence).limit(limit)).mappings()
    return [stored_event(**row) for row in rows]


def _device(row: Mapping[Any, Any]) -> DeviceRow:
    columns = dict(row)
    del columns["revision"]
    return DeviceRow(**columns)
