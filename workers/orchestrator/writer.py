"""The one thread that changes the database, and the transactions it runs.

Jobs of concurrent calls share a transaction: the thread takes what waits, for at most `SHARE_S`, commits, and only then
answers. A job that refuses (raises) is undone by itself; a commit that fails fails every job in it, and the roster stays as it was.
The roster changes only after the commit, so nobody ever reads what a crash could take back.
"""

import asyncio
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, bindparam, insert, update
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import FleetError, KdpipeError
from pipeline.rollout.events import Event, encode_facts
from pipeline.rollout.rollout import Rollout
from workers.orchestrator import tables
from workers.orchestrator.roster import DeviceRow, Roster

SHARE_S = 0.010
MAX_SHARED = 256

log = logging.getLogger(__name__)
T = TypeVar("T")
_UPDATE_DEVICE = update(tables.devices).where(tables.devices.c.device_id == bindparam("key"))


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
    """One job's view: what is committed, what earlier jobs of this transaction changed, what it changed itself."""

    def __init__(self, connection: Connection, roster: Roster, below: "Session | None" = None) -> None:
        self.connection = connection
        self._roster, self._below = roster, below
        self.devices: dict[str, DeviceRow] = {}
        self.rollouts: dict[str, Rollout] = {}

    def device(self, device_id: str) -> DeviceRow | None:
        found = self.devices.get(device_id)
        if found is not None:
            return found
        return self._below.device(device_id) if self._below is not None else self._roster.devices.get(device_id)

    def put_device(self, row: DeviceRow) -> None:
        """Change a device that exists; written with the transaction."""
        self.devices[row.device_id] = row

    def add_device(self, row: DeviceRow) -> None:
        self.connection.execute(insert(tables.devices).values(**row.columns()))
        self.put_device(row)

    def population(self, name: str) -> dict[str, DeviceRow]:
        rows = {row.device_id: row for row in self._roster.population(name)} if self._below is None else self._below.population(name)
        rows.update({device: row for device, row in self.devices.items() if row.population == name})
        return rows

    def all_rollouts(self) -> dict[str, Rollout]:
        base = dict(self._roster.rollouts) if self._below is None else self._below.all_rollouts()
        return {**base, **self.rollouts}

    def add_rollout(self, rollout: Rollout, created: Event) -> None:
        plan = rollout.plan
        row = {"rollout_id": plan.rollout_id, "population": plan.population, "created_s": created.at_s, "state": str(rollout.state)}
        self.connection.execute(insert(tables.rollouts).values(**row))
        self._append(plan.rollout_id, [created])
        self.rollouts[plan.rollout_id] = rollout

    def put_rollout(self, rollout: Rollout, events: list[Event]) -> None:
        if not events:
            return
        self._append(rollout.plan.rollout_id, events)
        ended_s = rollout.last_event_s if rollout.is_terminal else None
        where = tables.rollouts.c.rollout_id == rollout.plan.rollout_id
        self.connection.execute(update(tables.rollouts).where(where).values(state=str(rollout.state), ended_s=ended_s))
        self.rollouts[rollout.plan.rollout_id] = rollout

    def add_report(self, row: Mapping[str, Any]) -> None:
        self.connection.execute(insert(tables.reports).values(**row))

    def absorb(self, above: "Session") -> None:
        """Take over what a job that succeeded has changed."""
        self.devices.update(above.devices)
        self.rollouts.update(above.rollouts)

    def flush(self) -> None:
        """Write the changed devices, one statement for all."""
        if self.devices:
            rows = [{"key": device, **row.columns()} for device, row in self.devices.items()]
            self.connection.execute(_UPDATE_DEVICE, rows)

    def _append(self, rollout_id: str, events: list[Event]) -> None:
        rows = [
            {**asdict(event), "rollout_id": rollout_id, "kind": str(event.kind), "facts": encode_facts(event.facts)} for event in events
        ]
        self.connection.execute(insert(tables.rollout_events), rows)


Job = Callable[[Session], Any]
_Waiting = tuple[Job, "Future[Any]"]


class Writer:
    """Owns the thread. `on_commit(jobs, seconds)` is told of each transaction, in that thread."""

    def __init__(self, engine: Engine, roster: Roster, *, on_commit: Callable[[int, float], None] = lambda jobs, seconds: None) -> None:
        self._engine, self._roster, self._on_commit = engine, roster, on_commit
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="orchestrator-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[Session], T]) -> "Future[T]":
        """Run `job` in a transaction soon; the future is done after the commit. Raises WriterClosedError."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise WriterClosedError
            self._queue.put((job, cast("Future[Any]", future)))
        return future

    async def run(self, job: Callable[[Session], T]) -> T:
        """`submit`, awaited. The job goes on if the call that waits for it is cancelled."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(job)))

    def close(self) -> None:
        """Finish what was submitted, then stop. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            began_s = time.monotonic()
            taken: list[Future[Any]] = []
            results: list[tuple[Any, BaseException | None]] = []
            is_last = False
            try:
                with self._engine.begin() as connection:
                    shared = Session(connection, self._roster)
                    waiting: _Waiting | None = first
                    while waiting is not None:
                        taken.append(waiting[1])
                        results.append(_attempt(waiting[0], shared, self._roster))
                        waiting, is_last = self._next(began_s, len(taken))
                    shared.flush()
            except Exception as error:  # whatever it is, the calls must hear of it and the thread must go on
                log.exception("transaction failed", extra={"jobs": len(taken)})
                failure = StoreUnavailableError(str(getattr(error, "orig", None) or error)[:200])
                for future in taken or [first[1]]:
                    future.set_exception(failure)
            else:
                self._roster.devices.update(shared.devices)
                self._roster.rollouts.update(shared.rollouts)
                self._on_commit(len(taken), time.monotonic() - began_s)
                for future, (result, refusal) in zip(taken, results, strict=True):
                    future.set_exception(refusal) if refusal is not None else future.set_result(result)
            if is_last:
                return

    def _next(self, began_s: float, taken: int) -> tuple[_Waiting | None, bool]:
        """The next job for this transaction, and whether the writer is to stop after it."""
        if taken >= MAX_SHARED or time.monotonic() - began_s >= SHARE_S:
            return None, False
        try:
            waiting = self._queue.get_nowait()
        except queue.Empty:
            return None, False
        return waiting, waiting is None


def _attempt(job: Job, shared: Session, roster: Roster) -> tuple[Any, BaseException | None]:
    """Run one job by itself: what a refusing job did is undone. A database error ends the whole transaction."""
    own = Session(shared.connection, roster, below=shared)
    savepoint = shared.connection.begin_nested()
    try:
        result = job(own)
        savepoint.commit()
    except SQLAlchemyError:
        raise
    except KdpipeError as refusal:
        savepoint.rollback()
        return None, refusal
    except Exception as error:  # a bug in one call must not stop the thread that all calls need
        log.exception("job failed")
        savepoint.rollback()
        return None, error
    shared.absorb(own)
    return result, None


def encode_shadow(shadow: Mapping[str, Any]) -> str:
    """How a report's shadow evidence is kept."""
    return json.dumps(shadow, sort_keys=True, separators=(",", ":"))
