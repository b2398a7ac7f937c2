"""Labelling without Ray: a source and a teacher in memory, and a crew that works in the caller's thread.

The texts say what goes wrong: `poison` makes the teacher raise, `nan` makes it answer NaN, `unparseable` is a row without input, `kill`
ends the process that labels it, `hang` never comes back.
"""

import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.labels import rowspace
from pipeline.labels.log import LogReader
from pipeline.labels.order import Cursor
from pipeline.labels.quarantine import in_force
from pipeline.labels.reader import EndOfEpoch, LabelReader, NotYet
from pipeline.labels.rowspace import plan_of
from pipeline.labels.store import Store
from pipeline.sources import SCHEMAS, Part
from pipeline.sources.source import PartChangedError
from workers.labelling import Demand, Labelling, LabellingOutcome, LabellingProgress
from workers.labelling.crew import Died, Event, Finished, Probed, Ready
from workers.labelling.labeller import Labeller
from workers.labelling.messages import Assignment, Canary, Failed, Labelled, LabellerSpec
from workers.labelling.session import Instant

CLASSES = ("ham", "spam")


class MemorySource:
    """Parts as lists of texts. Is its own spec: `open` gives itself."""

    section = SourceSection(path="memory")
    base = Path()

    def __init__(self, parts: Mapping[str, Sequence[str]]) -> None:
        self.texts = {name: list(texts) for name, texts in parts.items()}
        self._names: dict[str, str] = {}
        self.looks = 0
        self.reads: list[tuple[str, list[int]]] = []
        self.read_error: Exception | None = None

    def open(self) -> "MemorySource":
        return self

    def parts(self) -> Sequence[Part]:
        self.looks += 1
        return [Part(identity=part, name=self._names.get(part, part), rows=len(texts)) for part, texts in self.texts.items()]

    def replace(self, name: str, texts: Sequence[str]) -> str:
        """Change what the part of that name holds; its new identity is its name and content."""
        identity = f"{name}@{zlib.crc32(chr(0).join(texts).encode()):08x}"
        self.texts = {part: texts for part, texts in self.texts.items() if self._names.get(part, part) != name}
        self.texts[identity], self._names[identity] = list(texts), name
        return identity

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        if self.read_error:
            raise self.read_error
        if identity not in self.texts:
            raise PartChangedError(identity, identity, "")
        self.reads.append((identity, list(rows)))
        texts = [self.texts[identity][row] for row in rows]
        readable = ["unparseable" not in text for text in texts]
        return pa.record_batch(
            [
                pa.array([f"{identity}:{row}" for row in rows]),
                pa.array([text if fine else None for text, fine in zip(texts, readable, strict=True)], pa.string()),
                pa.array([CLASSES[len(text) % 2] for text in texts]),
                pa.array([None if fine else "not UTF-8" for fine in readable], pa.string()),
            ],
            schema=SCHEMAS["text"],
        )


def expected_log_probs(text: str) -> NDArray[np.float32]:
    """What the teacher in memory says about a text."""
    share = 0.1 + 0.8 * (sum(text.encode()) % 97) / 97
    return np.log(np.array([share, 1 - share], dtype=np.float32))


class MemoryTeacher:
    """Deterministic, counts what it is asked."""

    classes: tuple[str, ...] = CLASSES
    deterministic = True

    def __init__(self, fingerprint: str = "teacher-1") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def log_probs(self, inputs: Any) -> NDArray[np.float32]:
        texts = inputs.to_pylist()
        if any("poison" in text for text in texts):
            raise ValueError("the teacher chokes")
        self.asked += texts
        answer = np.stack([expected_log_probs(text) for text in texts])
        answer[["nan" in text for text in texts]] = np.nan
        return answer


class OtherTeacher(MemoryTeacher):
    """Well-formed answers of the same fingerprint that are wrong, each kind in its own way, once it has been asked often enough."""

    def __init__(self, shift: float = 0.3, *, after: int = 0) -> None:
        super().__init__()
        self._shift, self._after = shift, after

    def log_probs(self, inputs: Any) -> NDArray[np.float32]:
        answer = super().log_probs(inputs)
        if len(self.asked) <= self._after:
            return answer
        probs_B = (np.exp(answer[:, 0]) + self._shift) % 1.0
        return np.log(np.stack([probs_B, 1 - probs_B], axis=1)).astype(np.float32)


class InlineCrew:
    """Each poll does one assignment, in the thread that polls. What texts ask for happens to the worker."""

    def __init__(self, labeller: Callable[[], Labeller], source: MemorySource, seconds_per_row: Mapping[str, float]) -> None:
        self._make, self._source, self._seconds_per_row = labeller, source, seconds_per_row
        self._labellers: dict[str, Labeller] = {}
        self._events: deque[Event] = deque()
        self._waiting: deque[tuple[str, Assignment]] = deque()
        self.started, self.restarted, self.most = 0, 0, 0
        self.killed_rows: list[int] = []

    def start(self) -> str:
        self.started += 1
        name = f"worker-{self.started}"
        self._labellers[name] = self._make()
        self.most = max(self.most, len(self._labellers))
        self._ready(name)
        return name

    def submit(self, worker: str, assignment: Assignment) -> None:
        self._waiting.append((worker, assignment))

    def probe(self, worker: str, canary: Canary) -> None:
        texts = self._texts(canary)
        if "kill" in texts:
            self._die(worker)
        elif "hang" not in texts:
            self._events.append(Probed(worker=worker, log_probs_NK=self._labellers[worker].probe(canary)))

    def restart(self, worker: str) -> None:
        self.restarted += 1
        self._die(worker)

    def stop(self, worker: str) -> None:
        del self._labellers[worker]
        self._waiting = deque(item for item in self._waiting if item[0] != worker)
        self._events = deque(event for event in self._events if event.worker != worker)

    def poll(self, timeout_s: float) -> Sequence[Event]:
        if not self._events and self._waiting:
            worker, assignment = self._waiting.popleft()
            texts = self._texts(assignment)
            if "kill" in texts:
                self.killed_rows.append(assignment.stop - assignment.start)
                self._die(worker)
            elif "hang" not in texts:
                self._events.append(Finished(worker=worker, outcome=self._timed(worker, self._labellers[worker].label(assignment))))
        events = list(self._events)
        self._events.clear()
        return events

    def notice(self) -> str:
        return ""

    def close(self) -> None:
        self._labellers.clear()

    def _timed(self, worker: str, outcome: Labelled | Failed) -> Labelled | Failed:
        if isinstance(outcome, Failed) or worker not in self._seconds_per_row:
            return outcome
        return replace(outcome, teacher_s=self._seconds_per_row[worker] * outcome.teacher_rows)

    def _texts(self, assignment: Assignment | Canary) -> str:
        plan = assignment.plan
        return " ".join(
            self._source.texts[plan.part][row]
            for row in part_rows(plan, range(assignment.start, assignment.stop))
            if plan.part in self._source.texts
        )

    def _die(self, worker: str) -> None:
        self._waiting = deque(item for item in self._waiting if item[0] != worker)
        self._events.append(Died(worker=worker, reason="the teacher's process died"))
        self._ready(worker)

    def _ready(self, worker: str) -> None:
        self._events.append(Ready(worker=worker, teacher=self._labellers[worker].teacher.fingerprint))


def part_rows(plan: Any, rows: Sequence[int]) -> list[int]:
    """Rows of the part that these global rows are."""
    return rowspace.part_rows(plan, np.array(rows, dtype=np.int64))


class Bench:
    """A store, a source and a teacher, and as many labelling runs over them as a test wants."""

    def __init__(self, store: Store, source: MemorySource, *, unit_rows: int = 4, workers_max: int = 2, **section: Any) -> None:
        self.store, self.source, self.teacher = store, source, MemoryTeacher()
        self.section = LabellingSection(
            **({"unit_rows": unit_rows, "window_rows": 16, "free_disk_bytes": 0, "canary_rows": 0, "unit_rows_max": 1} | section)
        )
        self.teacher_section = TeacherSection(use="memory", workers_max=workers_max, batch_rows=3)
        self.replicas: dict[int, MemoryTeacher] = {}
        """Of the n-th worker that a run starts; others have `teacher`."""
        self.seconds_per_row: dict[str, float] = {}
        """What workers of these names say that they took."""
        self.crews: list[InlineCrew] = []
        self.progress: list[LabellingProgress] = []
        self.free_bytes: Callable[[], int | None] = lambda: None
        self.seconds = 0.0
        self.tick_s = 0.1

    def now(self) -> Instant:
        self.seconds += self.tick_s
        return Instant(mono_s=self.seconds, unix_s=1_000_000.0 + self.seconds)

    def labelling(self, generation: int = 1) -> Labelling:
        return Labelling(
            store_url="memory",
            source=self.source,  # type: ignore[arg-type]
            teacher=self.teacher_section,
            classes=CLASSES,
            base=Path(),
            section=self.section,
            seed=7,
            generation=generation,
            holder="the test",
            open_crew=self._open_crew,
            clock=self.now,
            store=self.store,
            free_bytes=lambda: self.free_bytes(),
        )

    def run(
        self,
        generation: int = 1,
        *,
        demand: Callable[[], Demand] = Demand,
        stop: threading.Event | None = None,
        on_progress: Callable[[LabellingProgress], None] = lambda _: None,
    ) -> LabellingOutcome:
        """Plan, then label, as a driver does."""

        def progress(now: LabellingProgress) -> None:
            self.progress.append(now)
            on_progress(now)

        labelling = self.labelling(generation)
        labelling.plan()
        return labelling.run(demand=demand, progress=progress, stop=stop or threading.Event())

    def _open_crew(self, spec: LabellerSpec) -> InlineCrew:
        numbers = count(1)

        def labeller() -> Labeller:
            teacher = self.replicas.get(next(numbers), self.teacher)
            return Labeller(
                store=self.store,
                source=self.source,
                teacher=teacher,
                batch_rows=3,
                kind="text",
                codec=spec.codec,
                reuse=spec.reuse,
                embedding=spec.embedding,
            )

        self.crews.append(InlineCrew(labeller, self.source, self.seconds_per_row))
        return self.crews[-1]


def read_epoch(reader: LabelReader, cursor: Cursor) -> tuple[list[str], Cursor | None]:
    """Sample ids from the cursor to the end of its epoch, and the next epoch's cursor; None if the tail is not there yet."""
    ids: list[str] = []
    while True:
        got = reader.read(cursor)
        if isinstance(got, NotYet):
            return ids, None
        if isinstance(got, EndOfEpoch):
            return ids, got.next
        ids += got.sample_ids
        cursor = got.cursor_after


def assert_exactly_once(store: Store, source: MemorySource, *, generation: int = 1) -> None:
    """Every sample is in the live pass once, or quarantined; nothing else is; the labels are the teacher's."""
    state = LogReader(store).refresh()
    assert state.void_commits == 0
    assert state.rows_left == 0
    assert state.rows_labelled + state.rows_quarantined == state.rows_planned
    assert list(state.ends) == list(range(1, generation + 1))
    reader = LabelReader(store, generation=generation, batch=5, seed=3)
    cursor, ids = reader.start(), []
    cursor = Cursor(log=cursor.log, seed=3, batch=5, generation=generation, epoch=1, pos=0)
    while not isinstance(got := reader.read(cursor), EndOfEpoch):
        assert not isinstance(got, NotYet)
        ids += got.sample_ids
        for sample, text, log_probs in zip(got.sample_ids, got.inputs.to_pylist(), got.log_probs_BK, strict=True):
            part, _, row = sample.rpartition(":")
            assert source.texts[part][int(row)] == text
            np.testing.assert_allclose(log_probs, expected_log_probs(text), atol=2e-3)
        cursor = got.cursor_after
    quarantined = set()
    for bad in in_force(state):
        for number in range(bad.start, bad.stop):
            plan = plan_of(state.plans, number)
            quarantined.add(f"{plan.part}:{part_rows(plan, [number])[0]}")
    everything = {f"{name}:{row}" for name, texts in source.texts.items() for row in range(len(texts))}
    assert len(ids) == len(set(ids)), "a sample is there twice"
    assert set(ids) | quarantined == everything
    assert not set(ids) & quarantined
