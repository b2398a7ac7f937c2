"""A device asks its teacher, in two ways that are kept apart, and goes on answering whatever becomes of it.

Escalation: what the model is unsure of is asked about, and the teacher's answer is given in the model's place if it comes in time. Anything
else (no network, a refusal, no budget, too late) gives the device's own answer, at most `wait_ms` later; while the teacher does not answer,
hardly ever later at all. Audit: answers drawn at random, whatever the model thought of them, are held against the teacher's, for the gates
of a rollout; by a thread of its own, so that no answer waits for it. The first way tells nothing of a release: a model that is surer asks
less, and what it asks is harder. Only what a caller asks comes here, never a golden sample or a shadow run's input.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.rollout.slots import Slot
from workers.edge.allowance import Allowance, AskOptions
from workers.edge.inputs import Input
from workers.edge.metrics import EdgeMetrics
from workers.edge.questions import Line, Questions
from workers.edge.serving import Answer
from workers.edge.serving_window import ServingWindow
from workers.edge.tally import Tally, Way
from workers.rpc import local_pb2 as pb

logger = logging.getLogger(__name__)
MAX_UNDER_WAY = 6
"""Questions of unsure answers, of all calls together, the least sure of a call first; what goes beyond is answered by the device alone. The
orchestrator takes eight of a device at once: one more is the audit's, and one that is late here may not have ended there."""
MAX_DRAWN = 32
"""Answers that wait to be held against the teacher's; one more is left out."""
AUDIT_TIMEOUT_S = 10.0

# B batch, K classes.


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a caller gets."""

    probabilities_BK: NDArray[np.float32]
    by_teacher_B: NDArray[np.bool_]


class Asking:
    """Both ways, or none, as the device's owner allows them. Thread-safe. `start` before the first audit; `close` ends it."""

    def __init__(
        self,
        options: AskOptions,
        *,
        line: Line,
        window: ServingWindow,
        metrics: EdgeMetrics,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options, self._tally = options, Tally(options, metrics)
        pauses = random.Random(rng.getrandbits(64))  # drawn apart, so that no failure changes which answers are drawn

        def questions(way: Way) -> Questions:
            allowance = Allowance(options.per_hour / options.ways, rng=pauses, clock=clock)
            return Questions(way, line=line, allowance=allowance, tally=self._tally)

        self._escalation = Escalation(options, questions("escalation"), self._tally) if options.below else None
        self._audit = Audit(options.share, questions("audit"), self._tally, window, rng) if options.share else None

    def start(self) -> None:
        if self._audit is not None:
            threading.Thread(target=self._audit.run, name="teacher-audit", daemon=True).start()

    def close(self) -> None:
        if self._audit is not None:
            self._audit.close()

    def give(self, inputs: Sequence[Input], answer: Answer) -> Given:
        """The model's own answer, or the teacher's where that is better."""
        if self._audit is not None:
            self._audit.offer(inputs, answer)
        if self._escalation is not None:
            try:
                return self._escalation.give(inputs, answer)
            except Exception:
                logger.exception("the teacher was not asked; the device's own answer stands")
        return own(answer)

    def shown(self) -> pb.Asking | None:
        """For `status`; None where inputs never leave the device."""
        return self._tally.shown() if self._options.ways else None


class Escalation:
    """The teacher's answer in the place of one that the model is unsure of."""

    def __init__(self, options: AskOptions, questions: Questions, tally: Tally) -> None:
        self._below, self._wait_s, self._questions, self._tally = options.below, options.wait_ms / 1000, questions, tally
        self._lock, self._under_way = threading.Lock(), 0

    def give(self, inputs: Sequence[Input], answer: Answer) -> Given:
        confidence_B = answer.probabilities_BK.max(axis=1)
        unsure = np.flatnonzero(confidence_B < self._below)
        if not len(unsure):
            return own(answer)
        least_sure = unsure[np.argsort(confidence_B[unsure], kind="stable")]
        with self._lock:
            count = min(len(unsure), MAX_UNDER_WAY - self._under_way)
            self._under_way += count
        self._tally.count("escalation", "dropped", len(unsure) - count)
        try:
            return self._ask(least_sure[:count].tolist(), inputs, answer)
        finally:
            with self._lock:
                self._under_way -= count

    def _ask(self, rows: Sequence[int], inputs: Sequence[Input], answer: Answer) -> Given:
        heard = self._questions.put([inputs[row] for row in rows], answer.slot.manifest, self._wait_s)
        given = own(answer)
        probabilities_BK = answer.probabilities_BK.copy()
        for row, said_K in zip(rows, heard, strict=True):
            if said_K is not None:
                probabilities_BK[row], given.by_teacher_B[row] = said_K, True
        self._tally.used(int(given.by_teacher_B.sum()))
        return Given(probabilities_BK=probabilities_BK, by_teacher_B=given.by_teacher_B)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An answer that is to be held against the teacher's."""

    input: Input
    slot: Slot
    own_class: int
    minute: int
    """Of the serving window."""


class Audit:
    """Holds answers, drawn at random, against the teacher's."""

    def __init__(self, share: float, questions: Questions, tally: Tally, window: ServingWindow, rng: random.Random) -> None:
        self._share, self._questions, self._tally, self._window, self._rng = share, questions, tally, window, rng
        self._drawn: queue.Queue[Drawn | None] = queue.Queue(MAX_DRAWN)
        self._closed = False

    def offer(self, inputs: Sequence[Input], answer: Answer) -> None:
        """Draw from these. Never waits."""
        for row, value in enumerate(inputs):
            if self._rng.random() < self._share:
                own_class = int(answer.probabilities_BK[row].argmax())
                try:
                    self._drawn.put_nowait(Drawn(input=value, slot=answer.slot, own_class=own_class, minute=self._window.minute))
                except queue.Full:
                    self._tally.count("audit", "dropped")

    def run(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """Hold the next one that was drawn; False once this is closed."""
        drawn = self._drawn.get()
        if drawn is None or self._closed:
            return False
        try:
            self._hold(drawn)
        except Exception:
            logger.exception("an answer was not held against the teacher's")
        return True

    def _hold(self, drawn: Drawn) -> None:
        said_K = self._questions.put([drawn.input], drawn.slot.manifest, AUDIT_TIMEOUT_S)[0]
        if said_K is not None:
            agreed = int(said_K.argmax()) == drawn.own_class
            self._window.held_against_teacher(drawn.slot.digest, drawn.minute, agreed=agreed)

    def close(self) -> None:
        """Nothing is asked from now on; what is under way ends with the line."""
        self._closed = True
        try:
            self._drawn.put_nowait(None)
        except queue.Full:
            return  # who takes the next one sees that it is over


def own(answer: Answer) -> Given:
    """The model's own answer."""
    return Given(probabilities_BK=answer.probabilities_BK, by_teacher_B=np.zeros(len(answer.probabilities_BK), dtype=np.bool_))
