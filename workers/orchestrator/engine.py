"""The wave engine: what follows from reports and from time, acted upon. Runs inside the writer's transactions.

It asks `pipeline.rollout.steering` what happens next, appends those events, and signs an assignment for every device whose
desired release changed, all in one transaction: after a crash either both are there or neither, and the next tick goes on. Where many
devices are to be assigned, a transaction signs a slice of them, so that nobody waits long for the writer, and the next ones the rest. An
assignment's generation only grows, also past what a device remembers from before a database was restored.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from securesystemslib.signer import Signer

from pipeline.errors import FleetError
from pipeline.releases.assignment import ASSIGNMENT_VALID, MAX_GENERATION, Assignment, sign_assignment
from pipeline.releases.online import BundleMissingError, ReleaseYankedError
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout.comparison import USUAL_MARGINS, Margins
from pipeline.rollout.events import Event, RolloutLogBrokenError
from pipeline.rollout.evidence import Evidence, Progress
from pipeline.rollout.forecast import Forecast, forecast
from pipeline.rollout.gates import CONCURRENT_S
from pipeline.rollout.plan import OnHalt, Plan
from pipeline.rollout.rollout import LIVE, Rollout, RolloutState, Stage
from pipeline.rollout.steering import Action, advance, command, create, desired, excuse_absence, supersede
from pipeline.rollout.targeting import EVERY_DEVICE, Reach, Selector, misfit
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.pki import utc
from workers.orchestrator.roster import DeviceRow, Roster, read_rollout
from workers.orchestrator.unfinished import note, unfinished
from workers.orchestrator.writer import Session

SLICE = 500
"""Assignments that one transaction signs, at about 0.2 ms each: PostgreSQL ends one that thinks for five seconds, and all others wait."""
UNHAPPY = frozenset({Stage.FAILED, Stage.LOST, Stage.INCOMPATIBLE})

log = logging.getLogger(__name__)


class RolloutUnknownError(FleetError):
    """There is no such rollout."""

    def __init__(self, rollout_id: str) -> None:
        super().__init__(rollout_id)
        self.rollout_id = rollout_id

    def __str__(self) -> str:
        return f"rollout {self.rollout_id!r:.100}: there is none; expected one that was created; `kdpipe rollout ls FLEET` lists them"


class RolloutConflictError(FleetError):
    """A rollout with this id and another content exists, or another one is on its way to the same population."""

    def __init__(self, rollout_id: str, found: str, expected: str) -> None:
        super().__init__(rollout_id, found, expected)
        self.rollout_id, self.found, self.expected = rollout_id, found, expected

    def __str__(self) -> str:
        return f"rollout {self.rollout_id}: {self.found}; expected {self.expected}"


class Releases(Protocol):
    """Published releases; `pipeline.releases.online.OnlineRepository` is one."""

    def target(self, path: str) -> ReleaseTarget: ...
    def targets(self) -> dict[str, ReleaseTarget]: ...


@dataclass(frozen=True, kw_only=True)
class Order:
    """A rollout as an operator asks for it; the rest of its plan follows from the release."""

    rollout_id: str
    population: str
    target: str
    waves: tuple[Reach, ...]
    soak_s: float
    deadline_s: float
    lost_after_s: float
    selector: Selector = EVERY_DEVICE
    in_flight_first: int = Plan.in_flight_first
    in_flight_share: float = Plan.in_flight_share
    bytes_per_s: float = Plan.bytes_per_s
    margins: Margins = USUAL_MARGINS
    on_halt: OnHalt = OnHalt.HOLD


class Engine:
    """Decides and signs. Every method that takes a session runs in the writer's thread."""

    def __init__(self, roster: Roster, releases: Releases, signer: Signer, *, started_s: float, pacing: Pacing) -> None:
        self._roster, self._releases, self._signer = roster, releases, signer
        self._started_s, self._pacing = started_s, pacing
        self.is_behind = False
        """Whether the last pass left devices to the next one."""

    def sign_with(self, signer: Signer) -> None:
        """Use this key from now on; what another one signed is stale (`refresh`)."""
        self._signer = signer

    def order(self, session: Session, order: Order, *, salt: str, now: float) -> Rollout:
        """Create a rollout, or return the one that an equal order made before. Raises RolloutConflictError, BundleMissingError."""
        plan = self._plan(order, salt=salt)
        known = self.find(session, order.rollout_id)
        if known is None:
            rollout, created = create(plan, now=now)
            session.add_rollout(rollout, created)
            return rollout
        if replace(known.plan, salt=salt, no_way_back=plan.no_way_back, bundle_bytes=plan.bundle_bytes) != plan:
            found = f"it exists with another content, and is {known.state}; an id is given once"
            raise RolloutConflictError(order.rollout_id, found, "the same content, or another id: --id of `kdpipe rollout start`")
        return known

    def foresee(self, session: Session, order: Order, *, salt: str, now: float, sync_s: float) -> tuple[Plan, Forecast]:
        """A dry run of `order`. Raises BundleMissingError."""
        plan = self._plan(order, salt=salt)
        return plan, forecast(plan, self._evidence(session, order.population, now), sync_s=sync_s)

    def act(self, session: Session, rollout_id: str, action: Action, *, now: float) -> Rollout:
        """Write an operator's action into the log, at its head, and assign what it desires. On any replica, whoever leads.

        What follows from evidence and time is the leader's: this replica may hear only part of the devices.
        Raises RolloutUnknownError, RolloutActionError, ErrorBudgetSpentError, RolloutConflictError, BundleMissingError.
        """
        rollout = self.find(session, rollout_id)
        if rollout is None:
            raise RolloutUnknownError(rollout_id)
        moved, events = command(rollout, action, now=now)
        if events and action in (Action.APPROVE, Action.RESUME):  # one that is done already takes no other's place
            self._releases.target(rollout.plan.target)
            self._make_way(session, rollout, now)
        self._settle(session, moved, events, now)
        return moved

    def find(self, session: Session, rollout_id: str) -> Rollout | None:
        """The rollout, also one that has left memory. Raises RolloutLogBrokenError."""
        if rollout_id in self._roster.broken:
            raise self._roster.broken[rollout_id].error
        known = session.all_rollouts().get(rollout_id)
        if known is not None:
            return known
        try:
            return read_rollout(session.connection, rollout_id)
        except ValueError:
            return None  # an empty log: there is none

    def wake(self, session: Session, *, alive_until_s: float, now: float) -> None:
        """Once after a start: the time away counts against nobody."""
        for rollout in session.all_rollouts().values():
            excused, events = excuse_absence(rollout, since_s=alive_until_s, now=now)
            session.put_rollout(excused, events)

    def listen_anew(self, session: Session, *, since_s: float, now: float) -> None:
        """The process itself was away (a laptop slept, a clock was stepped): that time counts against nobody either."""
        self._started_s = now
        self.wake(session, alive_until_s=since_s, now=now)

    def tick(self, session: Session, *, now: float) -> None:
        """Move every rollout as far as it goes now, and give newcomers what their population runs. For the leader alone."""
        self.is_behind = False
        held = self._go_on(session, now)
        for rollout in session.all_rollouts().values():
            if rollout.plan.population not in held and (rollout.state in LIVE or rollout.state is RolloutState.HALTED):
                evidence = replace(self._evidence(session, rollout.plan.population, now), release_gone=self._gone(rollout.plan.target))
                try:
                    moved, events = advance(rollout, evidence, now=now)
                except Exception:  # pure: nothing is half done, and a fault in one rollout's facts is no reason to leave the others alone
                    log.exception("a rollout cannot be moved; the others go on", extra={"rollout": rollout.plan.rollout_id})
                    continue
                self._settle(session, moved, events, now)
        self._greet(session, now)

    def assign(self, session: Session, row: DeviceRow, release: ReleaseTarget | None, *, now: float) -> DeviceRow:
        """Point a device at a release, under a new generation; None takes its assignment away."""
        claimed = row.device_generation if row.device_generation < MAX_GENERATION else 0  # nobody but a thief signs the highest
        generation = max(row.generation, claimed) + 1
        row = replace(row, generation=generation, target="", digest="", envelope=b"", expires_s=0.0)
        if release is not None:
            row = self._sign(replace(row, target=release.path, digest=release.digest), now)
        row = replace(row, progress=Progress.SILENT, progress_s=now)
        session.put_device(row)
        return row

    def overtake(self, session: Session, row: DeviceRow, *, now: float) -> DeviceRow:
        """A device that has accepted a newer generation than ours (an old database was restored) gets a newer one still."""
        if row.device_generation <= row.generation or not row.target:
            return row
        try:
            return self.assign(session, row, self._releases.target(row.target), now=now)
        except BundleMissingError:
            log.warning("assigned release is gone", extra={"target": row.target})
            return row

    def refresh(self, session: Session, *, now: float) -> int:
        """Sign a slice of the assignments that are half through their term, or by a key that was replaced. Returns how many it signed."""
        fresh_until_s = now + ASSIGNMENT_VALID.total_seconds() / 2
        keyid = self._signer.public_key.keyid.encode()
        rows = [row for row in self._roster.devices.values() if row.target and not row.is_revoked]
        stale = [row for row in rows if row.expires_s < fresh_until_s or keyid not in row.envelope]
        for row in stale[:SLICE]:
            session.put_device(self._sign(session.device(row.device_id) or row, now))
        return len(stale[:SLICE])

    def _plan(self, order: Order, *, salt: str) -> Plan:
        release = self._releases.target(order.target)
        floored = (
            path
            for path, other in self._releases.targets().items()
            if other.student == release.student and other.release < release.security_floor
        )
        return Plan(
            **vars(order),
            digest=release.digest,
            salt=salt,
            hardware=release.hardware,
            no_way_back=tuple(sorted(floored)),
            bundle_bytes=release.length,
        )

    def _sign(self, row: DeviceRow, now: float) -> DeviceRow:
        expires = utc(now) + ASSIGNMENT_VALID
        assignment = Assignment(
            device=row.device_id, target=row.target, digest=row.digest, generation=row.generation, issued=utc(now), expires=expires
        )
        return replace(row, envelope=sign_assignment(assignment, self._signer), expires_s=expires.timestamp())

    def _evidence(self, session: Session, population: str, now: float) -> Evidence:
        seen = self._roster.seen
        served = {device: told for device, told in list(self._roster.served.items()) if now - told.told_s <= CONCURRENT_S}
        rows = session.population(population)
        facts = {device: row.facts(max(row.last_seen_s, seen.get(device, 0.0)), served.get(device)) for device, row in rows.items()}
        return Evidence(
            devices=facts,
            listening_since_s=self._started_s,
            present_within_s=self._pacing.present_within_s(self._roster),
            sync_s=self._pacing.longest_interval_s(self._roster),
        )

    def _settle(self, session: Session, rollout: Rollout, events: list[Event], now: float) -> None:
        """Append what happened and assign what is desired now."""
        session.put_rollout(rollout, events)
        for event in events:
            log.info(
                "rollout moved", extra={"rollout": rollout.plan.rollout_id, "event": str(event.kind), "why": event.facts.get("reason", "")}
            )
        if not events and rollout.state not in LIVE:
            return
        is_done = self._reconcile(session, desired(rollout), now)
        if not is_done and rollout.state not in LIVE:
            note(session.connection, rollout.plan.rollout_id, is_unfinished=True)

    def _go_on(self, session: Session, now: float) -> frozenset[str]:
        """Go on with rollouts that move no more and left devices behind; populations in which nothing else begins before that is done."""
        held: set[str] = set()
        for rollout_id in sorted(unfinished(session.connection)):
            try:
                rollout = self.find(session, rollout_id)
            except RolloutLogBrokenError:
                continue  # nobody leads it
            if rollout is None:
                continue
            if self._reconcile(session, desired(rollout), now):
                note(session.connection, rollout_id, is_unfinished=False)
            elif rollout.is_terminal:
                held.add(rollout.plan.population)
        return frozenset(held)

    def _reconcile(self, session: Session, wanted: Mapping[str, str], now: float) -> bool:
        """Assign what is wanted, as far as this transaction has room; False where some are left."""
        releases: dict[str, ReleaseTarget | None] = {}
        for device, target in wanted.items():
            row = session.device(device)
            if row is None or row.is_revoked or row.target == target:
                continue
            if target not in releases:
                releases[target] = self._release(target)
            release = releases[target]
            if release is None and target:
                continue  # logged; the device keeps what it has
            if not self._has_room(session):
                return False
            self.assign(session, row, release, now=now)
        return True

    def _has_room(self, session: Session) -> bool:
        """Whether this transaction may sign one more."""
        has_room = len(session.devices) < SLICE
        self.is_behind = self.is_behind or not has_room
        return has_room

    def _gone(self, target: str) -> str:
        """Why nobody can be given this release any more, as a sentence; empty while it is in force."""
        try:
            self._releases.target(target)
        except ReleaseYankedError as error:
            return f"the release was yanked ({error.reason})"
        except BundleMissingError:
            return "the release is no longer in the repository"
        return ""

    def _release(self, target: str) -> ReleaseTarget | None:
        if not target:
            return None
        try:
            return self._releases.target(target)
        except BundleMissingError:
            log.warning("release is gone, its devices keep what they have", extra={"target": target})
            return None

    def _greet(self, session: Session, now: float) -> None:
        """Devices without an assignment, outside every live rollout, get what their population runs."""
        for population in {row.population for row in self._roster.devices.values()}:
            rows = [row for row in session.population(population).values() if not row.target and not row.is_revoked]
            if not rows or self._roster.broken_in(population) is not None:
                continue  # what a population runs follows from its logs
            published = self._releases.targets()
            completed = [rollout for rollout in _completed(session, population) if rollout.plan.target in published]
            busy = {device for other in _live(session, population) for device in desired(other)} if completed else set()
            for row in rows:
                incumbent = _incumbent(completed, row)
                member = incumbent.members.get(row.device_id) if incumbent is not None else None
                is_unhappy = member is not None and member.stage in UNHAPPY
                if incumbent is None or row.device_id in busy or is_unhappy:
                    continue
                release = self._release(incumbent.plan.target)
                if release is not None:
                    if not self._has_room(session):
                        return
                    self.assign(session, row, release, now=now)

    def _make_way(self, session: Session, rollout: Rollout, now: float) -> None:
        """One rollout at a time per population: a halted one gives way, a moving one does not, and a broken one holds it."""
        broken = self._roster.broken_in(rollout.plan.population)
        if broken is not None:
            found = f"the log of rollout {broken.rollout_id} of population {broken.population} is broken"
            expected = "logs that hold; `kdpipe audit verify FLEET` says where, a backup of the orchestrator's database mends it"
            raise RolloutConflictError(rollout.plan.rollout_id, found, expected)
        for other in _live(session, rollout.plan.population):
            if other.plan.rollout_id == rollout.plan.rollout_id:
                continue
            if other.state is not RolloutState.HALTED:
                found = f"rollout {other.plan.rollout_id} of population {rollout.plan.population} is {other.state}"
                raise RolloutConflictError(rollout.plan.rollout_id, found, "one rollout at a time; wait for it, or abort it")
            ended, events = supersede(other, rollout.plan.rollout_id, now=now)
            self._settle(session, ended, events, now)


def _completed(session: Session, population: str) -> list[Rollout]:
    """Newest first."""
    done = [r for r in session.all_rollouts().values() if r.plan.population == population and r.state is RolloutState.COMPLETED]
    return sorted(done, key=lambda rollout: rollout.last_event_s, reverse=True)


def _incumbent(completed: Iterable[Rollout], row: DeviceRow) -> Rollout | None:
    """The rollout that brought what devices like this one run: the last one that completed, was for them, and was not taken back."""
    facts = row.facts(row.last_seen_s)
    return next((rollout for rollout in completed if not misfit(facts, rollout.plan.selector, rollout.plan.hardware)), None)


def _live(session: Session, population: str) -> Iterable[Rollout]:
    moving = LIVE | {RolloutState.HALTED}
    return [r for r in session.all_rollouts().values() if r.plan.population == population and r.state in moving]
