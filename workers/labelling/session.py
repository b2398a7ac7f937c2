"""One run of labelling, a step at a time: observe, decide, execute.

    observe   what the teachers finished, who died, what the trainers want, how much disk is free
    decide    ledger (who labels what), pool (how many teachers), sealing (what becomes a window), doubt (bad sample or bad teacher)
    execute   assignments to the crew, entries to the committer

Runs in one thread. All that must survive a crash is in the log; a new session begins from it.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.config import UNITS_PER_TEACHER, LabellingSection, TeacherSection
from pipeline.labels.entries import Quarantine
from pipeline.labels.ledger import GivenUp, Ledger
from pipeline.labels.rowspace import plan_of
from pipeline.labels.store import Store, StoreFullError
from workers.labelling.committer import Committer
from workers.labelling.crew import Broken, Crew, Died, Event, Finished, Probed, Ready
from workers.labelling.doubt import Doubt
from workers.labelling.faults import EmbeddingUnusableError, PartVanishedError, StoreWriteError, TeacherChangedError
from workers.labelling.inspection import Inspection
from workers.labelling.messages import Assignment, Canary, Failed, Labelled, Trouble
from workers.labelling.pool import PoolRule, PoolView, Pressure, decide
from workers.labelling.repairs import Repairs
from workers.labelling.reports import Demand, LabellingProgress
from workers.labelling.sizing import UNITS_SEEN, largest_unit, rows_that_fit, unit_rows

POLL_S = 0.05
FULL_PAUSE_S = 5.0
RATE_OVER_S = 5.0
WRITE_TRIES = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Instant:
    """One reading of both clocks."""

    mono_s: float
    """Only goes forward."""
    unix_s: float


@dataclass
class _Worker:
    draining: bool = False
    leases: set[int] = field(default_factory=set)


class Session:
    """Labels what the ledger has, with a crew. `step` until `finished`, then `end`."""

    def __init__(
        self,
        *,
        store: Store,
        committer: Committer,
        ledger: Ledger,
        crew: Crew,
        section: LabellingSection,
        teacher: TeacherSection,
        free_bytes: Callable[[], int | None],
        forget: bool = True,
        canary: Canary | None = None,
    ) -> None:
        self._store, self._committer, self._ledger, self._crew = store, committer, ledger, crew
        self._section, self._free_bytes = section, free_bytes
        self._rule, self._pressure = PoolRule(minimum=teacher.workers_min, maximum=teacher.workers_max), Pressure()
        self._inspection = Inspection(section, canary)
        self._doubt = Doubt(rows_planned=committer.state.rows_planned)
        self._teachers = set(committer.state.teachers)
        self._workers: dict[str, _Worker] = {}
        self.repairs = Repairs(forget=forget)
        self._full_until_s = 0.0
        self._write_failures: Counter[str] = Counter()
        """In succession, of shards and of log records."""
        self._teacher_rows, self._rows_reused, self._teacher_s = 0, 0, 0.0
        self._rates: deque[tuple[float, int]] = deque()
        self._unit_rows, self._largest_unit = section.unit_rows, largest_unit(section, teacher)
        self._seconds_per_row: deque[float] = deque(maxlen=UNITS_SEEN)
        self._bytes_per_row: deque[float] = deque(maxlen=UNITS_SEEN)
        self._embedding_width: int | None = None
        self._says = ""
        self._lead_rows: int | None = None

    @property
    def finished(self) -> bool:
        """Nothing is left to label or to repair."""
        return self._ledger.empty and not self.repairs.waiting and not self.repairs.leased

    def step(self, demand: Demand, clock: Callable[[], Instant]) -> None:
        """One turn. Raises what must stop the run: FencedError, TeacherChangedError, TeacherFailsError, PartVanishedError ..."""
        events = self._crew.poll(POLL_S)
        now = clock()
        for event in events:
            self._observe(event, now)
        self._end_hung_workers(now)
        self._inspect(now)
        self._join_units()
        self.repairs.look(self._store, self._committer.state, demand.corrupt)
        self._lead_rows = self._committer.generation_rows - min(demand.cursors.values()) if demand.cursors else None
        lead_used_up = self._lead_rows is not None and self._lead_rows >= self._section.lead_max
        self._resize(demand, lead_used_up, now)
        self._says = self._pause_reason(lead_used_up, now)
        if not self._says:
            self._assign(now, repairs_only=lead_used_up)
            self._says = self._crew.notice() or self._inspection.says
        self._commit(now, starved=demand.starved, lead_used_up=lead_used_up)

    def end(self, now: Instant) -> None:
        """All is done: what could not be labelled is quarantined, and the generation ends."""
        self._committer.quarantine(self._doubt.settled())
        self._committer.end(now_s=now.mono_s, now_unix_s=now.unix_s)

    def flush(self, now: Instant) -> None:
        """Make what is done durable now."""
        self._committer.flush(now_s=now.mono_s, now_unix_s=now.unix_s)

    def wind_down(self, now: Instant) -> None:
        """Stop before the end: take what is done already, wait for nothing."""
        for event in self._crew.poll(0):
            self._observe(event, now)
        self.flush(now)

    def progress(self, now: Instant) -> LabellingProgress:
        state = self._committer.state
        rate = 0.0 if self._committer.first_commit_unix_s is None else self._rate(now, state.rows_labelled)
        return LabellingProgress(
            rows_planned=state.rows_planned,
            rows_committed=state.rows_labelled,
            rows_quarantined=state.rows_quarantined,
            generation_rows=self._committer.generation_rows,
            rows_per_s=rate,
            teacher_calls=self._teacher_rows,
            rows_reused=self._rows_reused,
            teacher_s=self._teacher_s,
            actors=len(self._workers),
            windows=len(state.windows),
            lead_rows=self._lead_rows,
            first_commit_unix_s=self._committer.first_commit_unix_s,
            last_commit_unix_s=self._committer.last_commit_unix_s,
            teachers_taken_out=self._inspection.taken_out,
            says=self._says,
        )

    def _rate(self, now: Instant, rows: int) -> float:
        """Rows a second lately. It begins with the first commit: before it teachers load, and nothing says how long its rows took."""
        self._rates.append((now.mono_s, rows))
        while now.mono_s - self._rates[0][0] > RATE_OVER_S:
            self._rates.popleft()
        then_s, then_rows = self._rates[0]
        return (rows - then_rows) / (now.mono_s - then_s) if now.mono_s > then_s else 0.0

    def _observe(self, event: Event, now: Instant) -> None:
        worker = self._workers.get(event.worker, _Worker())
        match event:
            case Ready():
                self._teachers.add(event.teacher)
                if len(self._teachers) > 1 and not self._section.mixed_teachers:
                    raise TeacherChangedError(event.teacher, ", ".join(sorted(self._teachers - {event.teacher})))
                if not worker.draining:
                    self._inspection.ready(event.worker)
            case Probed():
                for name in self._inspection.heard(event.worker, event.log_probs_NK, now.mono_s):
                    self._take_out(name)
            case Broken():
                raise event.error
            case Died():
                log.warning("a teacher died", extra={"worker": event.worker, "reason": event.reason})
                self._lose(event.worker, event.reason)
            case Finished(outcome=Labelled() as done):
                worker.leases.discard(done.lease)
                self._inspection.labelled(event.worker, rows=done.teacher_rows, seconds=done.teacher_s)
                self._take(done, now)
            case Finished(outcome=Failed() as failure):
                worker.leases.discard(failure.lease)
                self._take_failure(failure, now)

    def _take(self, done: Labelled, now: Instant) -> None:
        self._teacher_rows += done.teacher_rows
        self._rows_reused += done.reused
        self._teacher_s += done.teacher_s
        if done.shard is not None and not self._committer.is_stored(done.shard):
            self._take_failure(Failed(lease=done.lease, trouble=Trouble.WRITE, reason=f"{done.shard.key} is not in the store"), now)
            return
        self._write_failures["shard"] = 0
        self._refuse_width(done)
        if done.shard:
            self._seconds_per_row.append(done.teacher_s / done.shard.rows)
            self._bytes_per_row.append(done.unit_bytes / (done.shard.rows + len(done.bad)))
        repaired = self.repairs.settle(done.lease, done.bad)
        lease = self._ledger.settle(done.lease)
        if repaired and done.shard:
            self._committer.repair(repaired.shard.key, done.shard, done.bad, teacher=done.teacher)
        elif lease is None:
            if done.shard:
                self._committer.drop(done.shard)  # the attempt was fenced: its rows are somebody else's
        elif done.shard:
            if done.teacher_rows:  # a unit of known content says nothing of the teacher
                self._committer.quarantine(self._doubt.settled())
            self._committer.commit(
                lease.unit.start,
                lease.unit.stop,
                done.shard,
                done.bad,
                teacher=done.teacher,
                teacher_s=done.teacher_s,
                reused=done.reused,
                now_s=now.mono_s,
            )
        else:
            rows = [Quarantine(start=bad.row, stop=bad.row + 1, reason=bad.reason) for bad in done.bad]
            if done.refused:
                self._doubt.failed(rows, source=False)
            else:
                self._committer.quarantine(rows)

    def _take_failure(self, failure: Failed, now: Instant) -> None:
        match failure.trouble:
            case Trouble.GONE:
                self._refuse_vanished(failure.lease)
            case Trouble.READ:
                self._give_up(self._ledger.fail(failure.lease, failure.reason, divisible=False), source=True)
                self.repairs.fail(failure.lease, failure.reason)
            case Trouble.LARGE:
                self._divide(failure)
            case Trouble.FULL | Trouble.WRITE:
                self._ledger.put_back(failure.lease)
                self.repairs.put_back(failure.lease)
                if failure.trouble is Trouble.FULL:
                    self._full_until_s = now.mono_s + FULL_PAUSE_S
                    return
                self._count_write_failure("shard", failure.reason)

    def _divide(self, failure: Failed) -> None:
        unit = next((lease.unit for lease in self._ledger.leases if lease.number == failure.lease), None)
        if unit is not None:  # not fenced
            self._bytes_per_row.append(failure.unit_bytes / (unit.stop - unit.start))
            self._ledger.divide(failure.lease, rows_that_fit([self._bytes_per_row[-1]]))

    def _refuse_width(self, done: Labelled) -> None:
        """Labels that a student reads together have embeddings of one width, whichever replica gave them."""
        self._embedding_width = self._embedding_width or done.embedding_width
        if done.embedding_width not in (None, self._embedding_width):
            expected = f"{self._embedding_width}, as for other rows"
            raise EmbeddingUnusableError(done.teacher, f"an embedding of {done.embedding_width} numbers", expected)

    def _refuse_vanished(self, number: int) -> None:
        lease = next((lease for lease in self._ledger.leases if lease.number == number), None)
        if lease is not None:
            state = self._committer.state
            plan = plan_of(state.plans, lease.unit.start)
            missing = state.done.missing_from(plan.first, plan.first + plan.rows)
            raise PartVanishedError([(plan.name, sum(stop - start for start, stop in missing))])

    def _give_up(self, given_up: GivenUp | None, *, source: bool) -> None:
        if given_up:
            self._doubt.failed([Quarantine(start=given_up.start, stop=given_up.stop, reason=given_up.reason)], source=source)

    def _lose(self, name: str, reason: str) -> None:
        if name in self._workers:
            self._workers[name].leases.clear()
        self._inspection.forget(name)
        self.repairs.lose(name, reason)
        for given_up in self._ledger.lose(name, reason):
            self._give_up(given_up, source=False)

    def _end_hung_workers(self, now: Instant) -> None:
        for name in {lease.worker for lease in self._ledger.expired(now_s=now.mono_s)}.union(self._inspection.hung(now.mono_s)):
            log.warning("a teacher's lease ran out; its process is ended", extra={"worker": name, "lease_s": self._section.lease_s})
            self._crew.restart(name)
            self._lose(name, f"the teacher did not answer within {self._section.lease_s:g} s")

    def _inspect(self, now: Instant) -> None:
        """Ask about the canary where it is time, and let go of a replica that is much slower than the others."""
        for name in self._inspection.due(now.mono_s):
            assert self._inspection.canary is not None
            self._crew.probe(name, self._inspection.canary)
        if slow := self._inspection.too_slow(now.mono_s):
            log.warning("a teacher is much slower than the others; another is started when it has done what it has", extra={"worker": slow})
            self._drain(slow)

    def _join_units(self) -> None:
        waiting, teachers = self._ledger.rows_waiting, len(self._workers)
        largest = min(self._largest_unit, rows_that_fit(self._bytes_per_row))
        rows = unit_rows(self._unit_rows, tuple(self._seconds_per_row), rows_waiting=waiting, teachers=teachers, largest=largest)
        if rows > self._unit_rows:
            plans = self._committer.state.plans
            self._ledger.merge(rows, part=lambda start: plan_of(plans, start).first)
            self._unit_rows = rows
            self._seconds_per_row.clear()

    def _drain(self, name: str) -> None:
        self._workers[name].draining = True
        self._inspection.forget(name)

    def _take_out(self, name: str) -> None:
        """End a replica that answers otherwise than the others: what it has not delivered yet is refused, and others do it."""
        log.warning("a teacher answers otherwise than the others; it is ended and another started", extra={"worker": name})
        for lease in self._workers.pop(name).leases:
            self._ledger.put_back(lease)
            self.repairs.put_back(lease)
        self._inspection.forget(name)
        self._crew.stop(name)

    def _resize(self, demand: Demand, lead_used_up: bool, now: Instant) -> None:
        active = [name for name, worker in self._workers.items() if not worker.draining]
        view = PoolView(
            now_s=now.mono_s,
            teachers=len(active),
            units_waiting=self._ledger.units_waiting + self.repairs.waiting,
            units_leased=len(self._ledger.leases) + self.repairs.leased,
            starved=demand.starved,
            lead_used_up=lead_used_up,
        )
        target, self._pressure = decide(view, self._rule, self._pressure)
        for _ in range(target - len(active)):
            self._workers[self._crew.start()] = _Worker()
        for name in active[target:] if target < len(active) else ():
            self._drain(name)
        for name in [name for name, worker in self._workers.items() if worker.draining and not worker.leases]:
            del self._workers[name]
            self._crew.stop(name)

    def _pause_reason(self, lead_used_up: bool, now: Instant) -> str:
        """Why nothing may be assigned at this moment; empty if something may. A repair may go where a new unit must wait."""
        free_bytes = self._free_bytes()
        if free_bytes is not None and free_bytes < self._section.free_disk_bytes:
            return f"paused: {free_bytes / 2**20:.0f} MiB of disk free, below the {self._section.free_disk_bytes / 2**20:.0f} MiB to keep"
        if now.mono_s < self._full_until_s:
            return "paused: the disk of the label store is full"
        if lead_used_up and not self.repairs.waiting:
            return f"waiting for the students: labels are {self._lead_rows} rows ahead"
        return ""

    def _assign(self, now: Instant, *, repairs_only: bool) -> None:
        for _ in range(UNITS_PER_TEACHER):  # each worker gets a first unit before any gets a second
            for name, worker in self._workers.items():
                if self._inspection.may_work(name) and len(worker.leases) < UNITS_PER_TEACHER:
                    assignment = self._next_for(name, now, repairs_only=repairs_only)
                    if assignment:
                        worker.leases.add(assignment.lease)
                        self._crew.submit(name, assignment)

    def _next_for(self, name: str, now: Instant, *, repairs_only: bool) -> Assignment | None:
        state = self._committer.state
        repair = self.repairs.lease(name, state, self._store, self._committer.new_key)
        if repair or repairs_only:
            return repair
        lease, fitting = self._ledger.lease(name, now_s=now.mono_s), rows_that_fit(self._bytes_per_row)
        if lease is not None and lease.unit.stop - lease.unit.start > fitting:
            self._ledger.divide(lease.number, fitting)  # as it would be once it was read
            lease = self._ledger.lease(name, now_s=now.mono_s)
        if lease is None:
            return None
        unit = lease.unit
        key = self._committer.new_key(unit.start, unit.stop)
        return Assignment(lease=lease.number, key=key, plan=plan_of(state.plans, unit.start), start=unit.start, stop=unit.stop)

    def _commit(self, now: Instant, *, starved: bool, lead_used_up: bool) -> None:
        try:
            self._committer.tick(now_s=now.mono_s, now_unix_s=now.unix_s, starved=starved, lead_used_up=lead_used_up)
        except StoreFullError:
            self._full_until_s = now.mono_s + FULL_PAUSE_S
        except OSError as error:  # the writer still has what it was to write, and puts it again at the next turn
            self._count_write_failure("log", f"{type(error).__name__}: {error}")
        else:
            if not self._committer.pending:
                self._write_failures["log"] = 0

    def _count_write_failure(self, what: str, reason: str) -> None:
        self._write_failures[what] += 1
        if self._write_failures[what] >= WRITE_TRIES:
            raise StoreWriteError(self._write_failures[what], reason)
