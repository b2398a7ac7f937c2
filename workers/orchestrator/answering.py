"""Who asks the teacher waits here: questions in batches, a process that is started again when it ends, and an end for every wait.

What came while the teacher was busy goes to it together; a single question never waits for others. How many wait is bounded, and so is each
wait: by its caller's deadline, and by the end of the teacher's process, which fails all that wait. A question whose caller has gone is not
asked. All of it is on the event loop, but for the blocking calls to the process, which have a thread of their own.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FleetError
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.question import Question, shape_of
from workers.orchestrator.refusals import OverloadedError
from workers.orchestrator.teacher_process import TeacherDiedError, TeacherEnd, TeacherFacts, TeacherSilentError

BATCH_ROWS = 64
LOOK_S = 1.0
"""A process that ended while nobody asked is noticed within that time."""
STEADY_S = 60.0
"""One that was up for so long had not failed to start."""
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 300.0

log = logging.getLogger(__name__)


class TeacherDownError(FleetError):
    """Nobody answers now. What the teacher said is in the orchestrator's log: it is not a device's to know."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"the teacher {self.found}; expected it to answer; ask again later"


class NoAnswerError(FleetError):
    """The teacher has nothing to say to this one input."""

    def __str__(self) -> str:
        return "the teacher fails on this input; expected one that it can answer"


@dataclass(eq=False)
class _Waiting:
    question: Question
    shape: int
    ends_s: float
    answer: "asyncio.Future[NDArray[np.float32]]"


class Answering:
    """`run` keeps a teacher up, `ask` waits for what it says."""

    def __init__(self, open_one: Callable[[], TeacherEnd], *, most: int, metrics: OrchestratorMetrics) -> None:
        self._open, self._most, self._metrics = open_one, most, metrics
        self._facts: TeacherFacts | None = None
        self._found = "is not loaded yet"
        self._waiting: deque[_Waiting] = deque()
        self._under_way = 0
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher")

    def facts(self) -> TeacherFacts:
        """Of the teacher that is up. Raises TeacherDownError."""
        if self._facts is None:
            raise TeacherDownError(self._found)
        return self._facts

    async def ask(self, question: Question, *, within_s: float) -> NDArray[np.float32]:
        """Probabilities of the teacher's classes. Raises TeacherDownError, NoAnswerError, OverloadedError."""
        self.facts()
        if self._under_way >= self._most:
            raise OverloadedError(f"{self._under_way} questions wait for the teacher", f"at most {self._most}")
        answer: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        mine = _Waiting(question, shape_of(question), time.monotonic() + within_s, answer)
        self._waiting.append(mine)
        self._under_way += 1
        self._news.set()
        try:
            return await answer
        finally:
            self._under_way -= 1
            if mine in self._waiting:  # its caller has gone: what it asked is forgotten at once
                self._waiting.remove(mine)

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        try:
            while True:
                began_s, teacher = time.monotonic(), self._open()
                try:
                    await self._serve(teacher)
                except (TeacherDiedError, TeacherSilentError) as error:
                    failures = 1 if time.monotonic() - began_s > STEADY_S else failures + 1
                    pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1))
                    log.warning("nobody answers questions; the teacher is started again", extra={"why": str(error), "pause_s": pause_s})
                finally:
                    self._went_down("is being started again")
                    await asyncio.to_thread(teacher.close)
                await asyncio.sleep(pause_s)
                self._metrics.teacher_restarted()
        finally:
            self._thread.shutdown(wait=False)

    async def _serve(self, teacher: TeacherEnd) -> None:
        """Start it, then ask it whatever is asked. Raises TeacherDiedError, TeacherSilentError where it does not start."""
        loop = asyncio.get_running_loop()
        self._facts = facts = await loop.run_in_executor(self._thread, teacher.start)
        self._metrics.teacher_is(up=True)
        log.info("the teacher answers questions", extra={"teacher": facts.fingerprint, "kind": facts.kind})
        was_silent = False
        while True:
            batch = await self._next(teacher)
            questions = [waiting.question for waiting in batch]
            try:
                rows_BK = await loop.run_in_executor(self._thread, teacher.ask, questions)
            except TeacherSilentError as error:
                if not was_silent:  # once, however many ask meanwhile
                    log.warning("the teacher has no answers for now", extra={"why": str(error)})
                was_silent = True
                _fail(batch, TeacherDownError("does not answer"))
            except BaseException:
                _fail(batch, TeacherDownError("ended"))
                raise
            else:
                was_silent = False
                self._metrics.asked_together(len(batch))
                _hand_out(rows_BK, batch)

    async def _next(self, teacher: TeacherEnd) -> list[_Waiting]:
        """Questions that go together: the one that has waited longest, and those of its shape. Raises TeacherDiedError."""
        while True:
            now_s = time.monotonic()
            wanted = [waiting for waiting in self._waiting if now_s < waiting.ends_s]
            for late in set(self._waiting).difference(wanted):
                late.answer.cancel()
            batch = [waiting for waiting in wanted if waiting.shape == wanted[0].shape][:BATCH_ROWS]
            taken = set(batch)
            self._waiting = deque(waiting for waiting in wanted if waiting not in taken)
            if batch:
                return batch
            self._news.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
            except TimeoutError:
                if not teacher.alive:
                    raise TeacherDiedError("its process has ended") from None

    def _went_down(self, found: str) -> None:
        self._facts, self._found = None, found
        self._metrics.teacher_is(up=False)
        _fail(list(self._waiting), TeacherDownError(found))
        self._waiting.clear()


def _fail(batch: Sequence[_Waiting], error: FleetError) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)


def _hand_out(rows_BK: NDArray[np.float32], batch: Sequence[_Waiting]) -> None:
    for row_K, waiting in zip(rows_BK, batch, strict=True):
        if waiting.answer.done():
            continue
        if np.isfinite(row_K).all():
            waiting.answer.set_result(row_K)
        else:
            waiting.answer.set_exception(NoAnswerError())
