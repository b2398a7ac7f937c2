"""What stands in for a teacher's process: it answers from the question alone, and is held, killed or poisoned by method calls."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.orchestrator.question import Question
from workers.orchestrator.teacher_process import TeacherDiedError, TeacherFacts, TeacherSilentError

WAIT_S = 20.0


def probabilities(question: Question) -> list[float]:
    """What the fake says to a question."""
    spam = 1 / (1 + len(question))
    return [1 - spam, spam]


class FakeTeacherEnd:
    """A `TeacherEnd` in this process; the next one of the same `FakeTeachers` has the same faults."""

    def __init__(self, teachers: "FakeTeachers") -> None:
        self._of, self._closed = teachers, threading.Event()

    @property
    def alive(self) -> bool:
        return self is not self._of.killed

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def start(self) -> TeacherFacts:
        if self._of.starts_fail > 0:
            self._of.starts_fail -= 1
            raise TeacherSilentError("teacher mine: it raised OSError; expected a teacher that loads")
        if not self._of.may_start.wait(WAIT_S):
            raise AssertionError("the test never let the teacher start")
        return TeacherFacts(classes=("ham", "spam"), fingerprint="fake-1", kind=self._of.kind)

    def ask(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        self._of.asked.append(list(questions))
        self._of.is_asked.release()
        while not self._of.may_answer.wait(0.01):
            if self._closed.is_set() or not self.alive:
                raise TeacherDiedError("its process has ended")
        if not self.alive:
            raise TeacherDiedError("its process has ended")
        if self._of.silent:
            raise TeacherSilentError("teacher at http://10.0.0.7: refused; expected an answer")
        rows = [[np.nan, np.nan] if isinstance(q, bytes) and q in self._of.poison else probabilities(q) for q in questions]
        return np.array(rows, dtype=np.float32)

    def close(self) -> None:
        self._closed.set()


class FakeTeachers:
    """Makes one after the other; `__call__` is what opens them. Faults are method calls."""

    def __init__(self, *, kind: str = "text") -> None:
        self.kind = kind
        self.opened: list[FakeTeacherEnd] = []
        self.asked: list[list[Question]] = []
        """Every batch."""
        self.is_asked = threading.Semaphore(0)
        self.may_start, self.may_answer = threading.Event(), threading.Event()
        self.may_start.set()
        self.may_answer.set()
        self.poison: set[bytes] = set()
        self.silent = False
        self.starts_fail = 0
        self.killed: FakeTeacherEnd | None = None

    def __call__(self) -> FakeTeacherEnd:
        self.opened.append(FakeTeacherEnd(self))
        return self.opened[-1]

    def hold(self) -> None:
        """Let what is asked from now on wait."""
        self.may_answer.clear()

    def go_on(self) -> None:
        self.may_answer.set()

    def kill(self) -> None:
        """The one that is up ends, whatever it does."""
        self.killed = self.opened[-1]

    def wait_asked(self) -> None:
        """Until one more batch has reached the teacher."""
        assert self.is_asked.acquire(timeout=WAIT_S), "nothing was asked in time"
