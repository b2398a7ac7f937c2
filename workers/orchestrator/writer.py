"""The one thread that changes the database, and the transactions it runs.

Jobs of concurrent calls share a transaction: the thread takes what waits (and what comes within `SHARE_S`, where the transaction before
has only just ended), commits, and only then answers. A job that refuses (raises) is undone by itself. Where the database refuses what one
of them brings, the transaction is undone and its jobs run again in smaller ones, so that job alone fails; a job may run more than once.
What the disk or the connection refuses fails every job. The roster changes only after the commit, so nobody ever reads what a crash
could take back.
A transaction first takes in what other replicas committed (`Roster.catch_up`), under a lock that all of them respect: no job ever
decides on an old picture.
"""

import asyncio
import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, bindparam, insert, update
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError

from pipeline.errors import FleetError, KdpipeError
from pipeline.rollout.events import Event, encode_facts
from pipeline.rollout.rollout import Rollout
from workers.orchestrator import tables
from workers.orchestrator.roster import DeviceRow, Roster

SHARE_S = 0.010
MAX_SHARED = 256

log = logging.getLogger(__name__)
T = TypeVar("T")
_columns = [column for column in tables.devices.c if column.name != "device_id"]
_UPDATE_DEVICE = (
    update(tables.devices).where(tables.devices.c.device_id == bindparam("key")).values({c.name: bindparam(c.name) for c in _columns})
)
_ADD_DEVICE, _ADD_REPORT, _ADD_EVENT = insert(tables.devices), insert(tables.reports), insert(tables.rollout_events)
_UPDATE_ROLLOUT = update(tables.rollouts).where(tables.rollouts.c.rollout_id == bindparam("key"))
_CHANGED = update(tables.changes)
_OF_THE_STORE = (OperationalError, InterfaceError, InternalError, OSError)
"""A full disk, a lock, a connection that is gone: nobody's statement is to blame, and the next transaction would hear the same."""


class StoreUnavailableError(FleetError):
    """A transaction failed: the disk is full, the file is locked, the database is gone. Nothing of it happened."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the orchestrator's database: {self.reason}; expected it to be writable; nothing was changed; look at its disk, ask again"


class WriterClosedError(FleetError):
    """The orchestrator is stopping."""

    def __str__(self) -> str:
        return "the orchestrator is stopping; nothing was changed; ask again once it is back"


class Session:
    """One job's view: what is committed, what earlier jobs of this transaction changed, what it changed itself.

    Changes of devices, rollouts and reports are kept until the transaction ends, and written together. A job that needs SQL of its own
    takes `connection`, and from then on has a savepoint, so that it can be undone alone.
    """

    def __init__(self, connection: Connection, roster: Roster, below: "Session | None" = None) -> None:
        self._connection, self._roster, self._below = connection, roster, below
        self._savepoint: Any = None
        self.devices: dict[str, DeviceRow] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.revoked_operators: dict[str, float] = {}
        self._new_devices: set[str] = set()
        self._new_rollouts: list[Mapping[str, Any]] = []
        self._events: list[Mapping[str, Any]] = []
        self._reports: list[Mapping[str, Any]] = []

    @property
    def connection(self) -> Connection:
        """For SQL of the job's own; it does not see devices, rollouts and reports that this transaction changed."""
        if self._below is not None and self._savepoint is None:
            self._savepoint = self._connection.begin_nested()
        return self._connection

    def device(self, device_id: str) -> DeviceRow | None:
        found = self.devices.get(device_id)
        if found is not None:
            return found
        return self._below.device(device_id) if self._below is not None else self._roster.devices.get(device_id)

    def put_device(self, row: DeviceRow) -> None:
        """Change a device that exists; written with the transaction."""
        self.devices[row.device_id] = row

    def add_device(self, row: DeviceRow) -> None:
        self._new_devices.add(row.device_id)
        self.put_device(row)

    def revoke_operator(self, name: str, *, now: float) -> None:
        """Nothing happens where it was revoked before."""
        below = self._roster.revoked_operators if self._below is None else {*self._roster.revoked_operators, *self._below.revoked_operators}
        if name not in below:
            self.revoked_operators[name] = now

    def population(self, name: str) -> dict[str, DeviceRow]:
        rows = {row.device_id: row for row in self._roster.population(name)} if self._below is None else self._below.population(name)
        rows.update({device: row for device, row in self.devices.items() if row.population == name})
        return rows

    def all_rollouts(self) -> dict[str, Rollout]:
        base = dict(self._roster.rollouts) if self._below is None else self._below.all_rollouts()
        return {**base, **self.rollouts}

    def add_rollout(self, rollout: Rollout, created: Event) -> None:
        plan = rollout.plan
        self._new_rollouts.append({"rollout_id": plan.rollout_id, "population": plan.population, "created_s": created.at_s})
        self.put_rollout(rollout, [created])

    def put_rollout(self, rollout: Rollout, events: list[Event]) -> None:
        if not events:
            return
        rollout_id = rollout.plan.rollout_id
        self._events += [
            {**vars(event), "rollout_id": rollout_id, "kind": str(event.kind), "facts": encode_facts(event.facts)} for event in events
        ]
        self.rollouts[rollout_id] = rollout

    def add_report(self, row: Mapping[str, Any]) -> None:
        self._reports.append(row)

    def absorb(self, above: "Session") -> None:
        """Take over what a job that succeeded has changed."""
        self.devices.update(above.devices)
        self.rollouts.update(above.rollouts)
        self.revoked_operators |= above.revoked_operators
        self._new_devices |= above._new_devices
        self._new_rollouts += above._new_rollouts
        self._events += above._events
        self._reports += above._reports

    def settle(self, *, keep: bool) -> None:
        """End the savepoint, if there is one."""
        if self._savepoint is not None:
            self._savepoint.commit() if keep else self._savepoint.rollback()

    def flush(self, *, seen: Mapping[str, float]) -> bool:
        """Write what was changed, a statement for each table; True where the roster changes with it."""
        run, revision = self._connection.execute, self._roster.revision + 1
        if self._reports:
            run(_ADD_REPORT, self._reports)
        if not (self.devices or self.rollouts or self.revoked_operators):
            return False
        added, moved = list[Mapping[str, Any]](), list[Mapping[str, Any]]()
        for device, row in self.devices.items():
            columns = row.columns() | {"revision": revision, "last_seen_s": max(row.last_seen_s, seen.get(device, 0.0))}
            added.append(columns) if device in self._new_devices else moved.append(columns | {"key": device})
        if added:
            run(_ADD_DEVICE, added)
        if moved:
            run(_UPDATE_DEVICE, moved)
        if self.revoked_operators:
            revoked = [{"name": name, "revoked_s": at_s, "revision": revision} for name, at_s in self.revoked_operators.items()]
            run(insert(tables.revoked_operators), revoked)
        if self._new_rollouts:
            run(insert(tables.rollouts), [{**row, "state": "", "revision": revision} for row in self._new_rollouts])
        for rollout_id, rollout in self.rollouts.items():
            ended_s = rollout.last_event_s if rollout.is_terminal else None
            run(_UPDATE_ROLLOUT, {"key": rollout_id, "state": str(rollout.state), "ended_s": ended_s, "revision": revision})
        if self._events:
            run(_ADD_EVENT, self._events)
        run(_CHANGED, {"revision": revision})
        return True


Job = Callable[[Session], Any]


@dataclass(frozen=True, slots=True)
class _Call:
    job: Job
    future: "Future[Any] | asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop | None


_Done = tuple[_Call, Any, BaseException | None]
_Outcome = tuple["Future[Any] | asyncio.Future[Any]", Any, BaseException | None]


class Writer:
    """Owns the thread. `on_commit(jobs, seconds)` is told of each transaction, `on_foreign()` of news by other replicas, in that thread."""

    def __init__(
        self,
        engine: Engine,
        roster: Roster,
        *,
        on_commit: Callable[[int, float], None] = lambda jobs, seconds: None,
        on_foreign: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine, self._roster, self._on_commit, self._on_foreign = engine, roster, on_commit, on_foreign
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()
        self.current_s = time.monotonic()
        """When the roster was last known to hold all that is committed, by the monotonic clock."""
        self._thread = threading.Thread(target=self._run, name="orchestrator-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[Session], T]) -> "Future[T]":
        """Run `job` in a transaction soon; the future is done after the commit. Raises WriterClosedError."""
        future: Future[T] = Future()
        self._put(_Call(job, future, None))
        return future

    async def run(self, job: Callable[[Session], T]) -> T:
        """`submit`, awaited. A caller that goes away changes nothing: the job still runs."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Call(job, future, loop))
        return await future

    def close(self) -> None:
        """Finish what was submitted, then stop. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, call: _Call) -> None:
        with self._lock:
            if self._closed:
                raise WriterClosedError
            self._queue.put(call)

    def _run(self) -> None:
        is_last, ended_s = False, 0.0
        while not is_last and (first := self._queue.get()) is not None:
            if time.monotonic() - ended_s < SHARE_S:
                time.sleep(SHARE_S)  # calls come close together: one commit for those of the next moment costs each of them less
            calls, is_last = self._take(first)
            done, ended_s = self._transact(calls), time.monotonic()
            _answer(done)
        self._disconnect()

    def _take(self, first: _Call) -> tuple[list[_Call], bool]:
        """The calls of the next transaction, and whether the writer is to stop after it."""
        calls = [first]
        while len(calls) < MAX_SHARED:
            try:
                call = self._queue.get_nowait()
            except queue.Empty:
                break
            if call is None:
                return calls, True
            calls.append(call)
        return calls, False

    def _connected(self) -> Connection:
        """The one connection, kept from transaction to transaction."""
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    def _transact(self, calls: list[_Call]) -> list[_Done]:
        """Run the calls in one transaction, or in several where one of them brings what the database does not take."""
        began_s = time.monotonic()
        try:
            done, shared, is_changed = self._commit(calls)
        except Exception as error:  # whatever it is, the calls must hear of it and the thread must go on
            if len(calls) > 1 and not _is_of_the_store(error):
                half = len(calls) // 2
                return self._transact(calls[:half]) + self._transact(calls[half:])
            log.exception("transaction failed", extra={"jobs": len(calls)})
            self._disconnect()
            failure = StoreUnavailableError(" ".join(str(getattr(error, "orig", None) or error).split())[:200])
            return [(call, None, failure) for call in calls]
        self._roster.devices.update(shared.devices)
        self._roster.rollouts.update(shared.rollouts)
        self._roster.revoked_operators |= shared.revoked_operators.keys()
        self._roster.revision += is_changed
        self.current_s = began_s
        self._on_commit(len(calls), time.monotonic() - began_s)
        return done

    def _commit(self, calls: list[_Call]) -> tuple[list[_Done], Session, bool]:
        """What became of each call, what they changed together, and whether the roster changes with it."""
        connection = self._connected()
        with connection.begin():
            if self._roster.catch_up(connection):
                self._on_foreign()
            shared = Session(connection, self._roster)
            done = [(call, *_attempt(call.job, shared, self._roster)) for call in calls]
            return done, shared, shared.flush(seen=self._roster.seen)


def _is_of_the_store(error: Exception) -> bool:
    return isinstance(error, _OF_THE_STORE) or getattr(error, "connection_invalidated", False)


def _attempt(job: Job, shared: Session, roster: Roster) -> tuple[Any, BaseException | None]:
    """Run one job by itself: what a refusing job did is undone. A database error ends the whole transaction."""
    own = Session(shared.connection, roster, below=shared)
    try:
        result = job(own)
        own.settle(keep=True)
    except SQLAlchemyError:
        raise
    except KdpipeError as refusal:
        own.settle(keep=False)
        return None, refusal
    except Exception as error:  # a bug in one call must not stop the thread that all calls need
        log.exception("job failed")
        own.settle(keep=False)
        return None, error
    shared.absorb(own)
    return result, None


def _answer(done: list[_Done]) -> None:
    """Tell every caller; those of one event loop with one wake-up."""
    of_loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for call, result, refusal in done:
        if call.loop is None:
            _settle([(call.future, result, refusal)])
        else:
            of_loops.setdefault(call.loop, []).append((call.future, result, refusal))
    for loop, outcomes in of_loops.items():
        try:
            loop.call_soon_threadsafe(_settle, outcomes)
        except RuntimeError:  # the loop was closed under its callers: nobody is left to hear
            log.warning("event loop is gone", extra={"calls": len(outcomes)})


def _settle(outcomes: list[_Outcome]) -> None:
    for future, result, refusal in outcomes:
        if future.done():
            continue  # its caller went away
        if refusal is not None:
            future.set_exception(refusal)
        else:
            future.set_result(result)


def encode_shadow(shadow: Mapping[str, Any]) -> str:
    """How a report's shadow evidence is kept."""
    return json.dumps(shadow, sort_keys=True, separators=(",", ":"))
