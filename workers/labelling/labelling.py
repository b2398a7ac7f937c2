"""Labelling of one generation, as the driver sees it: plan, run until every planned row has its label, repair what went bad.

Only `plan` takes up what is new in the source. `run` and `repair` label what the log holds, so that whoever decides what belongs
to a generation has decided it before they begin.
Owns the log writer of this run. Everything here may be killed at any instruction; the same calls in a new process go on from the log,
and ask the teacher about nothing that is committed. That one driver runs at a time is the driver's lock; if two run all the same, the
log's terms let only the newer one write.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import LabellingSection, TeacherSection
from pipeline.errors import KdpipeError
from pipeline.labels.codecs import codec_of
from pipeline.labels.intervals import Run
from pipeline.labels.ledger import Ledger
from pipeline.labels.locality import reading_groups
from pipeline.labels.log import ForeignClassesError, LogReader, LogWriter
from pipeline.labels.planning import SourceChange, source_change
from pipeline.labels.retention import Retention
from pipeline.labels.rowspace import plan_of, units_left
from pipeline.labels.state import LogState
from pipeline.labels.store import LocalStore, Store, open_store
from pipeline.sources import HELD_BYTES, BatchSource, GrowingSource, Part, Source, SourceSpec
from workers.labelling.committer import Committer
from workers.labelling.crew import Crew
from workers.labelling.faults import PartVanishedError, TeacherChangedError
from workers.labelling.inspection import canary_of
from workers.labelling.messages import LabellerSpec
from workers.labelling.repairs import Repairs
from workers.labelling.reports import Demand, LabellingOutcome, LabellingProgress, PlanSummary
from workers.labelling.session import Instant, Session

PROGRESS_EVERY_S = 0.2
DAY_S = 24 * 3600.0


def _now() -> Instant:
    return Instant(mono_s=time.monotonic(), unix_s=time.time())


OpenCrew = Callable[[LabellerSpec], Crew]


def ray_crew(spec: LabellerSpec) -> Crew:
    """Teachers as actors of a Ray that is connected."""
    from workers.labelling.ray_crew import RayCrew  # a run that labels nothing need not import ray

    return RayCrew(spec)


class Labelling:
    """Labels for one generation. `plan` before `run`; all in any process, any number of times, by one thread at a time.

    Keeps its source and its place in the log, so that asking again costs a look at what changed.
    """

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
        open_crew: OpenCrew = ray_crew,
        clock: Callable[[], Instant] = _now,
        store: Store | None = None,
        free_bytes: Callable[[], int | None] | None = None,
    ) -> None:
        codec = codec_of(section, len(classes))
        self._spec = LabellerSpec(
            store_url=store_url,
            source=source,
            teacher=teacher,
            classes=classes,
            base=base,
            codec=codec,
            reuse=section.reuse,
            embedding=section.embedding,
        )
        self._section, self._seed, self._generation, self._holder = section, seed, generation, holder
        self._open_crew, self._clock = open_crew, clock
        self._store = store or open_store(store_url)
        self._free_bytes = free_bytes or (self._store.free_bytes if isinstance(self._store, LocalStore) else lambda: None)
        keep_s = None if section.keep_days is None else section.keep_days * DAY_S
        self._retention = Retention(keep_bytes=section.keep_bytes, keep_s=keep_s)
        self._source: Source | None = None
        self._held_bytes: Mapping[str, int] = {}
        """Of the parts that were there at the last look."""
        self._shown: frozenset[str] | None = None
        """Parts that the last `preview` saw, until the next `plan`."""
        self._log = LogReader(self._store)
        self._writer: LogWriter | None = None

    def preview(self) -> PlanSummary:
        """What `plan` would say. Writes nothing; cheap to ask again and again."""
        state = self._log.refresh()
        parts = self._look(state)
        self._shown = frozenset(part.identity for part in parts)
        return self._summary(state, parts, self._needed_change(state, parts))

    def plan(self) -> PlanSummary:
        """Record what `source_change` says of the source, unless the generation has ended.

        Directly after a `preview`, a part which that did not show is left for the next time: it may have come a moment ago, half.
        Raises PartVanishedError for a planned part that is gone while its rows are needed; ForeignClassesError.
        """
        self._write_left()
        shown, self._shown = self._shown, None
        state = self._log.refresh()
        parts = self._look(state, shown or ())
        change = self._needed_change(state, parts, shown)
        if not self._ended(state) and (change.entries or not state.log):  # trainers may follow an empty log too
            writer = self._open_writer()
            if len(writer.state.plans) != len(state.plans):
                parts = self._look(writer.state, shown or ())
            state = writer.state  # nobody else writes from here on
            change = self._needed_change(state, parts, shown)
            writer.queue(change.entries)
            writer.flush(now_unix_s=self._clock().unix_s)
        return self._summary(state, parts, change)

    def check_classes(self) -> None:
        """Raises ForeignClassesError if labels over other classes are there, as `plan` and `run` do."""
        if (found := self._log.refresh().classes) not in ((), self._spec.classes):
            raise ForeignClassesError(found, self._spec.classes)

    def check_teacher(self, fingerprint: str) -> None:
        """Raises TeacherChangedError if labels of another teacher are there and mixing them was not asked for."""
        known = self._log.refresh().teachers
        if known - {fingerprint} and not self._section.mixed_teachers:
            raise TeacherChangedError(fingerprint, ", ".join(sorted(known)))

    def run(
        self, *, demand: Callable[[], Demand], progress: Callable[[LabellingProgress], None], stop: threading.Event
    ) -> LabellingOutcome:
        """Label until every planned row is committed or quarantined and the generation has ended, or until `stop`.

        Plans nothing: parts that came since the last `plan` wait for the next. Rows whose part has changed since then are set aside.
        With nothing left it starts no teacher. Afterwards the log has the generation's `end`, once, unless it was stopped.
        Raises FencedError, TeacherChangedError, TeacherFailsError, SourceFailsError, PartVanishedError, StoreWriteError,
        RepairFailedError and what loading the teacher raises; what was committed before stays.
        """
        state = self._log.refresh()
        if self._ended(state):
            return self.repair(demand().corrupt, progress=progress, stop=stop)
        writer = self._open_writer()
        self._write_left()  # what an earlier call could not write
        if writer.state.rows_left:
            writer.queue(self._change(writer.state, self._look(writer.state), None).superseded)
            self._write_left()
        state, now, committer = writer.state, self._clock(), self._committer(writer)
        if not state.rows_left and not demand().corrupt:
            committer.end(now_s=now.mono_s, now_unix_s=now.unix_s)
            return self._outcome(_state_only(writer.state), ended=True)
        committer.retire(self._retention, now_unix_s=now.unix_s)
        committer.sweep(now_unix_s=now.unix_s)
        committer.index_known()
        units = units_left(state.plans, state.done, unit_rows=self._section.unit_rows)
        return self._work(committer, units, demand, progress, stop, ends=True)

    def rows_of(self, shards: Collection[str]) -> int:
        """Rows in the committed shards of these keys."""
        return sum(commit.shard.rows for commit in self._log.refresh().commits if commit.shard.key in shards)

    def repair(
        self,
        shards: frozenset[str],
        *,
        progress: Callable[[LabellingProgress], None],
        stop: threading.Event,
        forget: bool = True,
    ) -> LabellingOutcome:
        """Label these committed shards again where they are bad indeed, whether the generation is open or has ended.

        Their rows keep their positions. Rows that can't be labelled again get weight 0; with `forget` false their shards stay bad instead,
        and the outcome names them. Labels nothing else, plans nothing and ends nothing; with nothing bad it starts no teacher and writes
        nothing. Raises what `run` raises.
        """
        state, bad = self._log.refresh(), Repairs()
        bad.look(self._store, state, shards)
        if not bad.waiting:
            return self._outcome(_state_only(state), ended=self._ended(state))
        writer = self._open_writer()
        self._write_left()
        return self._work(self._committer(writer), (), lambda: Demand(corrupt=shards), progress, stop, ends=False, forget=forget)

    def _work(
        self,
        committer: Committer,
        units: Iterable[Run],
        demand: Callable[[], Demand],
        progress: Callable[[LabellingProgress], None],
        stop: threading.Event,
        *,
        ends: bool,
        forget: bool = True,
    ) -> LabellingOutcome:
        crew, state = self._open_crew(replace(self._spec, log=committer.state.log)), committer.state
        groups = reading_groups(state.plans, self._held_bytes, budget_bytes=HELD_BYTES, seed=self._seed)
        session = Session(
            store=self._store,
            committer=committer,
            ledger=Ledger(
                units,
                seed=self._seed,
                lease_s=self._section.lease_s,
                group=lambda start: groups[plan_of(state.plans, start).part],
                decoded=lambda start: part if self._held_bytes.get(part := plan_of(state.plans, start).part) else None,
            ),
            crew=crew,
            section=self._section,
            teacher=self._spec.teacher,
            free_bytes=self._free_bytes,
            forget=forget,
            canary=canary_of(state.plans, state.done, rows=self._section.canary_rows, classes=len(self._spec.classes)),
        )
        try:
            self._steps(session, demand, progress, stop, ends=ends)
        finally:
            crew.close()
            with contextlib.suppress(KdpipeError, OSError):  # if an error is on its way, it is the one to hear of
                session.flush(self._clock())
        last = session.progress(self._clock())
        progress(last)
        return self._outcome(last, ended=self._ended(committer.state), repairs=session.repairs)

    def _steps(
        self,
        session: Session,
        demand: Callable[[], Demand],
        progress: Callable[[LabellingProgress], None],
        stop: threading.Event,
        *,
        ends: bool,
    ) -> None:
        reported_s = -PROGRESS_EVERY_S
        while not stop.is_set():
            session.step(demand(), self._clock)
            now = self._clock()
            if session.finished:
                (session.end if ends else session.flush)(now)
                return
            if now.mono_s - reported_s >= PROGRESS_EVERY_S:
                progress(session.progress(now))
                reported_s = now.mono_s
        session.wind_down(self._clock())

    def _look(self, state: LogState, shown: Collection[str] = ()) -> Sequence[Part]:
        """What is there, beside what is planned and was shown."""
        source = self._source = self._source or self._spec.source.open()
        kept = dict.fromkeys([*(plan.part for plan in state.plans), *sorted(shown)]) if isinstance(source, BatchSource) else ()
        parts = source.parts_beside(kept) if isinstance(source, BatchSource) else source.parts()
        self._held_bytes = {part.identity: part.held_bytes for part in parts}
        return parts

    def _change(self, state: LogState, parts: Sequence[Part], shown: Collection[str] | None) -> SourceChange:
        there = ((part.identity, part.name, part.rows) for part in parts)
        return source_change(
            state, there, unit_rows=self._section.unit_rows, generation=self._generation, shown=shown, grown=self._grown(state, parts)
        )

    def _grown(self, state: LogState, parts: Sequence[Part]) -> dict[str, str]:
        """Planned parts that are not there as they were -> the part that begins with all their rows."""
        source: object = self._source
        if not isinstance(source, GrowingSource):
            return {}
        there, names = {part.identity for part in parts}, {part.name for part in parts}
        gone = {plan.part for plan in state.plans if plan.part not in there and plan.name in names}
        return {identity: now for identity in gone if (now := source.grown_from(identity))}

    def _needed_change(self, state: LogState, parts: Sequence[Part], shown: Collection[str] | None = None) -> SourceChange:
        """Raises PartVanishedError, unless the generation has ended and needs nothing."""
        change = self._change(state, parts, shown)
        if change.vanished and not self._ended(state):
            raise PartVanishedError(change.vanished)
        return change

    def _summary(self, before: LogState, parts: Sequence[Part], change: SourceChange) -> PlanSummary:
        ended = self._ended(before)
        return PlanSummary(
            generation=self._generation,
            ended=ended,
            parts=len(parts),
            parts_new=len(change.new),
            rows_known=before.rows_planned,
            rows_new=change.rows_new,
            rows_superseded=0 if ended else change.rows_superseded,
            rows_left=0 if ended else before.rows_left - change.rows_superseded + change.rows_new + change.rows_back,
        )

    def _ended(self, state: LogState) -> bool:
        return self._generation <= max(state.ends, default=-1)

    def _committer(self, writer: LogWriter) -> Committer:
        return Committer(
            self._store,
            writer,
            generation=self._generation,
            window_rows=self._section.window_rows,
            now_s=self._clock().mono_s,
            reuse=self._section.reuse,
        )

    def _write_left(self) -> None:
        """Write what is queued, and what an earlier call could not write; it must be in the log before anything is decided by the log."""
        if self._writer:
            self._writer.flush(now_unix_s=self._clock().unix_s)

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

    def _outcome(self, last: LabellingProgress, *, ended: bool, repairs: Repairs | None = None) -> LabellingOutcome:
        done = repairs or Repairs()
        return LabellingOutcome(
            **vars(last),
            generation=self._generation,
            ended=ended,
            repaired=tuple(done.done),
            rows_forgotten=done.rows_forgotten,
            refused=done.refused,
        )


def _state_only(state: LogState) -> LabellingProgress:
    """Progress of a run that had nothing to do."""
    return LabellingProgress(
        rows_planned=state.rows_planned,
        rows_committed=state.rows_labelled,
        rows_quarantined=state.rows_quarantined,
        generation_rows=0,
        rows_per_s=0.0,
        teacher_calls=0,
        rows_reused=0,
        teacher_s=0.0,
        actors=0,
        windows=len(state.windows),
        lead_rows=None,
        first_commit_unix_s=None,
        last_commit_unix_s=None,
    )
