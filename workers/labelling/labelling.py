"""Labelling of one generation, as the driver sees it: plan, then run until every planned row has its label.

Owns the log writer of this run. Everything here may be killed at any instruction; the same calls in a new process go on from the log,
and ask the teacher about nothing that is committed. That one driver runs at a time is the driver's lock; if two run all the same, the
log's terms let only the newer one write.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.config import LabellingSection, TeacherSection
from pipeline.errors import KdpipeError
from pipeline.labels.ledger import Ledger
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.rowspace import planned, units_left
from pipeline.labels.state import LogState
from pipeline.labels.store import LocalStore, Store, open_store
from pipeline.sources import Part, Source, SourceSpec
from workers.labelling.committer import Committer
from workers.labelling.crew import Crew
from workers.labelling.faults import PartVanishedError, TeacherChangedError
from workers.labelling.messages import LabellerSpec
from workers.labelling.reports import Demand, LabellingOutcome, LabellingProgress, PlanSummary
from workers.labelling.session import Instant, Session

PROGRESS_EVERY_S = 0.2


def _now() -> Instant:
    return Instant(mono_s=time.monotonic(), unix_s=time.time())


def _ray_crew(spec: LabellerSpec) -> Crew:
    from workers.labelling.ray_crew import RayCrew  # a run that labels nothing need not import ray

    return RayCrew(spec)


class Labelling:
    """Labels for one generation. `plan` before `run`; both in any process, any number of times."""

    def __init__(
        self,
        *,
        store_url: str,
        source: SourceSpec,
        teacher: TeacherSection,
        classes: tuple[str, ...],
        base: Path,
        section: LabellingSection,
        seed: int,
        generation: int,
        holder: str,
        mixed_teachers: bool = False,
        open_crew: Callable[[LabellerSpec], Crew] = _ray_crew,
        clock: Callable[[], Instant] = _now,
        store: Store | None = None,
        free_bytes: Callable[[], int | None] | None = None,
    ) -> None:
        self._spec = LabellerSpec(store_url=store_url, source=source, teacher=teacher, classes=classes, base=base)
        self._section, self._seed, self._generation, self._holder = section, seed, generation, holder
        self._mixed_teachers, self._open_crew, self._clock = mixed_teachers, open_crew, clock
        self._store = store or open_store(store_url)
        self._free_bytes = free_bytes or (self._store.free_bytes if isinstance(self._store, LocalStore) else lambda: None)
        self._source: Source | None = None
        self._writer: LogWriter | None = None

    def preview(self) -> PlanSummary:
        """What `plan` would say. Writes nothing."""
        return self._plan(self._state(), record=False)

    def plan(self) -> PlanSummary:
        """Record the parts of the source that are new, unless the generation has ended.

        Raises PartVanishedError for a planned part that is gone while its rows are needed; ForeignClassesError.
        """
        return self._plan(self._state(), record=True)

    def check_teacher(self, fingerprint: str) -> None:
        """Raises TeacherChangedError if labels of another teacher are there and mixing them was not asked for."""
        known = self._state().teachers
        if known - {fingerprint} and not self._mixed_teachers:
            raise TeacherChangedError(fingerprint, ", ".join(sorted(known)))

    def run(
        self, *, demand: Callable[[], Demand], progress: Callable[[LabellingProgress], None], stop: threading.Event
    ) -> LabellingOutcome:
        """Label until every planned row is committed or quarantined and the generation has ended, or until `stop`.

        With nothing left it starts no teacher. Afterwards the log has the generation's `end`, once, unless it was stopped.
        Raises FencedError, TeacherChangedError, TeacherFailsError, SourceFailsError, PartVanishedError, StoreWriteError,
        RepairFailedError and what loading the teacher raises; what was committed before stays.
        """
        summary = self.plan()
        if summary.ended and not demand().corrupt:
            return self._outcome(_state_only(self._state()), ended=True)
        now = self._clock()
        writer = self._open_writer()
        writer.flush(now_unix_s=now.unix_s)  # what an earlier run of this object could not write
        committer = Committer(self._store, writer, generation=self._generation, window_rows=self._section.window_rows, now_s=now.mono_s)
        if not summary.rows_left and not demand().corrupt:
            committer.end(now_s=now.mono_s, now_unix_s=now.unix_s)
            return self._outcome(_state_only(writer.state), ended=True)
        committer.sweep()
        units = units_left(writer.state.plans, writer.state.done, unit_rows=self._section.unit_rows)
        crew = self._open_crew(self._spec)
        session = Session(
            store=self._store,
            committer=committer,
            ledger=Ledger(units, seed=self._seed, lease_s=self._section.lease_s),
            crew=crew,
            section=self._section,
            teacher=self._spec.teacher,
            mixed_teachers=self._mixed_teachers,
            free_bytes=self._free_bytes,
        )
        try:
            self._work(session, demand, progress, stop)
        finally:
            crew.close()
            with contextlib.suppress(KdpipeError, OSError):  # if an error is on its way, it is the one to hear of
                session.flush(self._clock())
        last = session.progress(self._clock())
        progress(last)
        return self._outcome(last, ended=session.finished, repaired=tuple(session.repairs.done), forgotten=session.repairs.rows_forgotten)

    def _work(
        self, session: Session, demand: Callable[[], Demand], progress: Callable[[LabellingProgress], None], stop: threading.Event
    ) -> None:
        reported_s = -PROGRESS_EVERY_S
        while not stop.is_set():
            session.step(demand(), self._clock)
            now = self._clock()
            if session.finished:
                session.end(now)
                return
            if now.mono_s - reported_s >= PROGRESS_EVERY_S:
                progress(session.progress(now))
                reported_s = now.mono_s
        session.wind_down(self._clock())

    def _plan(self, state: LogState, *, record: bool) -> PlanSummary:
        self._source = self._source or self._spec.source.open()
        parts = self._source.parts()
        ended = self._generation <= max(state.ends, default=-1)
        new = planned(((part.identity, part.name, part.rows) for part in parts), known=state.plans, unit_rows=self._section.unit_rows)
        if not ended:
            _refuse_vanished(state, parts)
        if record and new and not ended:
            writer = self._open_writer()
            writer.queue(new)
            state = writer.flush(now_unix_s=self._clock().unix_s)
        elif record and not state.log:
            state = self._open_writer().state  # trainers may start: there is a log to follow
        rows_new = sum(plan.rows for plan in new)
        known = state.rows_planned - (rows_new if record and not ended else 0)
        return PlanSummary(
            generation=self._generation,
            ended=ended,
            parts=len(parts),
            parts_new=len(new),
            rows_known=known,
            rows_new=rows_new,
            rows_left=0 if ended else known + rows_new - state.done.rows,
        )

    def _open_writer(self) -> LogWriter:
        if self._writer is None:
            self._writer = LogWriter.open(
                self._store,
                holder=self._holder,
                classes=self._spec.classes,
                nonce=secrets.token_hex(16),
                now_unix_s=self._clock().unix_s,
            )
        return self._writer

    def _state(self) -> LogState:
        return self._writer.state if self._writer else LogReader(self._store).refresh()

    def _outcome(self, last: LabellingProgress, *, ended: bool, repaired: tuple[str, ...] = (), forgotten: int = 0) -> LabellingOutcome:
        return LabellingOutcome(**vars(last), generation=self._generation, ended=ended, repaired=repaired, rows_forgotten=forgotten)


def _refuse_vanished(state: LogState, parts: Sequence[Part]) -> None:
    there = {part.identity for part in parts}
    for plan in state.plans:
        needed = sum(stop - start for start, stop in state.done.missing_from(plan.first, plan.first + plan.rows))
        if needed and plan.part not in there:
            raise PartVanishedError(plan.name, needed)


def _state_only(state: LogState) -> LabellingProgress:
    """Progress of a run that had nothing to do."""
    return LabellingProgress(
        rows_planned=state.rows_planned,
        rows_committed=state.rows_labelled,
        rows_quarantined=state.rows_quarantined,
        generation_rows=0,
        rows_per_s=0.0,
        teacher_calls=0,
        teacher_s=0.0,
        actors=0,
        windows=len(state.windows),
        lead_rows=None,
        first_commit_unix_s=None,
        last_commit_unix_s=None,
    )
