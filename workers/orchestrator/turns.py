"""What a replica does by itself: passes of the wave engine, beats, a look at what others did, housekeeping.

The engine wakes on news (a report, an enrolment, an operator, another replica) and by the clock only while a rollout could move by
itself; there is no busy polling. Only the replica that leads runs it, and each of its writes is refused once another one leads.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from securesystemslib.signer import Signer
from sqlalchemy import delete, insert, select

from pipeline.releases.online import OnlineRepository
from pipeline.releases.published import SOON
from pipeline.releases.repository import ROLE_RELEASES, TIMESTAMP_VALID
from pipeline.rollout.rollout import WavePhase
from workers.orchestrator import tables
from workers.orchestrator.engine import Engine
from workers.orchestrator.identity import OLD_S
from workers.orchestrator.leadership import FencedError, Leadership
from workers.orchestrator.listening import Listeners
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.pki import Pki, utc
from workers.orchestrator.presence import hear, newest, tell
from workers.orchestrator.report_log import KEPT, forget_reports
from workers.orchestrator.roster import Roster
from workers.orchestrator.served import forget_served, read_served, write_served
from workers.orchestrator.writer import Session, StoreUnavailableError, Writer

HEARTBEAT_S = 5.0
LOOK_S = 0.5
"""A replica knows what others committed at most this late, while the database answers."""
HOUSEKEEPING_S = 3600.0
AWAY_S = 6 * HEARTBEAT_S
"""A pass this long after the one before: the machine slept, the process was stopped, or the clock was stepped."""
LIVE_TICK_S = 1.0
"""Longest time between two looks at a rollout that is under way: deadlines and silence are noticed this late at most."""
ENGINE_SHARE = 4
"""After a pass the engine rests this many times as long as the pass took, so that it never has more than a fifth of a core."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Turns:
    """The tasks of one replica. `begin` once before serving, `run` while it serves, `end` at last."""

    roster: Roster
    writer: Writer
    engine: Engine
    repository: OnlineRepository
    leadership: Leadership
    metrics: OrchestratorMetrics
    listeners: Listeners
    clock: Callable[[], float]
    lease_s: float
    news: asyncio.Event
    own_pki: Callable[[], Pki]
    """The server's certificate, renewed where it ends soon."""
    own_signer: Callable[[], Signer]
    """The assignment key in this replica's folder, which the repository lists."""
    _noted: "_Noted" = field(default_factory=lambda: _Noted(at_s=0.0, telling=0))

    async def begin(self) -> None:
        """Lead if nobody does. What the time away excuses is excused before the first device is answered."""
        now = self.clock()
        self._noted = _Noted(at_s=now, telling=await self.writer.run(lambda session: newest(session.connection)))
        await self.writer.run(self._stand)
        self.news.set()

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._turn(), self._beat(), self._look(), self._keep())

    async def end(self) -> None:
        """Write down what only memory holds, and let another replica lead."""
        try:
            self._noted = await self.writer.run(self._note)
            await self.writer.run(lambda session: self.leadership.resign(session.connection))
        except (StoreUnavailableError, FencedError) as error:
            log.warning("ended without a last word; another replica leads now or after a while", extra={"why": str(error)})

    async def _turn(self) -> None:
        """The wave engine: a pass at each news, and when time alone could move a rollout."""
        passed_s = self.clock()
        while True:
            await self._wait()
            self.news.clear()
            began_s = time.monotonic()
            try:
                if self.leadership.leads:
                    passed_s = await self.writer.run(partial(self._pass, passed_s=passed_s))
                else:
                    passed_s = self.clock()
            except FencedError as fenced:
                log.warning("engine pass refused", extra={"why": str(fenced)})
            except Exception:  # the engine must outlive a full disk
                log.exception("engine pass failed; trying again")
                await asyncio.sleep(LIVE_TICK_S)
                self.news.set()
            if self.engine.is_behind:
                self.news.set()
            took_s = time.monotonic() - began_s
            self.metrics.ticked(took_s)
            self.metrics.count(self.roster)
            await asyncio.sleep(min(ENGINE_SHARE * took_s, LIVE_TICK_S))

    def _pass(self, session: Session, *, passed_s: float) -> float:
        """One pass of the engine; returns when it was. A pass that comes far too late means that this process was away."""
        self.leadership.check(session.connection)
        now = self.clock()
        if now - passed_s > AWAY_S:
            log.warning("was away", extra={"seconds": round(now - passed_s)})
            self.engine.listen_anew(session, since_s=passed_s, now=now)
        self.engine.tick(session, now=now)
        return now

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._due_s()):
                await self.news.wait()
        except TimeoutError:
            return

    def _due_s(self) -> float:
        """How long nothing can happen without news."""
        now, due_s = self.clock(), HEARTBEAT_S
        for rollout in self.roster.live():
            due_s = min(due_s, LIVE_TICK_S)
            if rollout.phase is WavePhase.SOAK and not rollout.paused:
                due_s = min(due_s, max(0.0, rollout.soak_clock_s + rollout.plan.soak_s - rollout.clock_s(now)))
        return due_s

    async def _beat(self) -> None:
        """Hold the lease, or take it; say what devices told and when they were last seen, and read what others say of it."""
        while True:
            await asyncio.sleep(min(HEARTBEAT_S, self.lease_s / 4))
            try:
                await self.writer.run(self._stand)
                if abs(self.clock() - self._noted.at_s) >= HEARTBEAT_S:  # a clock may be set back
                    self._noted = await self.writer.run(self._note)
            except Exception:  # as above; without a beat another replica takes over, which is right
                log.exception("beat failed; trying again")

    def _stand(self, session: Session) -> None:
        if self.leadership.step(session.connection):
            alive = select(tables.facts.c.value).where(tables.facts.c.name == "alive_until_s")
            now, known = self.clock(), session.connection.scalar(alive)
            self.engine.wake(session, alive_until_s=now if known is None else float(known), now=now)

    def _note(self, session: Session) -> "_Noted":
        """Remember until when the engine had a leader; hear when devices called others and how they answer, and tell it of those here."""
        connection, now, before = session.connection, self.clock(), self._noted
        if self.leadership.leads:
            self.leadership.check(connection)
            connection.execute(delete(tables.facts).where(tables.facts.c.name == "alive_until_s"))
            connection.execute(insert(tables.facts).values(name="alive_until_s", value=repr(now)))
        seen, served = self.roster.seen, self.roster.served
        mine = {device: at_s for device, at_s in list(seen.items()) if at_s >= before.at_s}
        answers = {device: told for device, told in list(served.items()) if told.told_s >= before.at_s}
        heard = hear(connection, after=before.telling, now=now)
        for device, told in read_served(connection, after=before.telling):
            called_s, called_there_s = heard[device]
            told = replace(told, told_s=min(called_s, called_s - (called_there_s - told.told_s)))
            if device not in served or served[device].told_s < told.told_s:
                served[device] = told
        for device, (called_s, _) in heard.items():
            seen[device] = max(called_s, seen.get(device, 0.0))
        tell(connection, mine, now=now)
        write_served(connection, answers)
        if (database_s := tables.clock_of(connection)) is not None:
            self.metrics.clock_ahead(self.clock() - database_s)
        return _Noted(at_s=now, telling=newest(connection))

    async def _look(self) -> None:
        """Take in what other replicas committed, and say whether this one is well and every rollout's log holds."""
        said: dict[str, bool] = {}
        while True:
            found = {"is_well": time.monotonic() - self.writer.current_s < OLD_S, "is_whole": not self.roster.broken}
            if found != said:
                await self.listeners.say(**found)
                said = found
            await asyncio.sleep(LOOK_S)
            try:
                await self.writer.run(lambda session: None)
            except StoreUnavailableError:
                log.debug("no look at the database")  # the writer has said why

    async def _keep(self) -> None:
        """Keep signed things and this replica's own certificate in force, and the database small."""
        while True:
            try:
                self.listeners.renew(await asyncio.to_thread(self.own_pki))
                if self.leadership.leads:
                    now = self.clock()
                    if self.repository.timestamp_expires - utc(now) < TIMESTAMP_VALID * 0.75:
                        await asyncio.to_thread(self.repository.resign_timestamp, now=utc(now))
                self.engine.sign_with(await asyncio.to_thread(self.own_signer))
                if self.leadership.leads:
                    await self._sign_anew()
                    await self.writer.run(lambda session: self._tidy(session, self.clock()))
                await self.writer.run(lambda session: self.roster.forget_old())
                self.metrics.timestamp_expires(self.repository.timestamp_expires.timestamp())
                self._tell_ends(await asyncio.to_thread(lambda: self.repository.expiries))
            except Exception:  # signing goes on at the next turn; the metric shows when it does not
                log.exception("housekeeping failed; trying again")
            await asyncio.sleep(HOUSEKEEPING_S)

    def _tell_ends(self, expiries: Mapping[str, datetime]) -> None:
        """What only a person renews is told a month ahead, at each turn."""
        self.metrics.metadata_expires(expiries)
        for role in ("root", "targets", ROLE_RELEASES):
            left = expiries[role] - utc(self.clock())
            if left < SOON:
                extra = {"role": role, "days": left.days, "action": "kdpipe keys show DIR"}
                log.warning("release metadata ends soon, and installs with it", extra=extra)

    async def _sign_anew(self) -> None:
        """Assignments near their end, or by a key that was replaced: a slice at a time, so that calls and passes come between."""
        while True:
            began_s = time.monotonic()
            if not await self.writer.run(self._refresh):
                return
            await asyncio.sleep(min(ENGINE_SHARE * (time.monotonic() - began_s), LIVE_TICK_S))

    def _refresh(self, session: Session) -> int:
        self.leadership.check(session.connection)
        return self.engine.refresh(session, now=self.clock())

    def _tidy(self, session: Session, now: float) -> None:
        self.leadership.check(session.connection)
        old_s = now - KEPT.total_seconds()
        forget_reports(session.connection, now=now)
        session.connection.execute(delete(tables.tokens).where(tables.tokens.c.expires_s < old_s))
        forget_served(session.connection, before_s=old_s)


@dataclass(frozen=True, kw_only=True)
class _Noted:
    """How far the last beat came that was committed."""

    at_s: float
    """Until when this replica's `seen` and `served` were told."""
    telling: int
    """Number of the last telling that it has heard, or was its own."""
