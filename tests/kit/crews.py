"""Teachers without Ray: loaded from their spec as an actor loads them, at work in the thread that polls."""

from collections import deque
from collections.abc import Sequence

from pipeline.errors import KdpipeError
from workers.labelling.crew import Broken, Event, Finished, Probed, Ready
from workers.labelling.labeller import Labeller
from workers.labelling.messages import Assignment, Canary, LabellerSpec


class LocalCrew:
    """A `Crew` whose workers take turns. Each poll does one assignment."""

    def __init__(self, spec: LabellerSpec) -> None:
        self._spec = spec
        self._labellers: dict[str, Labeller] = {}
        self._events: deque[Event] = deque()
        self._waiting: deque[tuple[str, Assignment]] = deque()
        self.started = 0

    def start(self) -> str:
        self.started += 1
        worker = f"teacher-{self.started}"
        try:
            self._labellers[worker] = Labeller.load(self._spec)
        except KdpipeError as error:
            self._events.append(Broken(worker=worker, error=error))
        else:
            self._events.append(Ready(worker=worker, teacher=self._labellers[worker].teacher.fingerprint))
        return worker

    def submit(self, worker: str, assignment: Assignment) -> None:
        self._waiting.append((worker, assignment))

    def probe(self, worker: str, canary: Canary) -> None:
        self._events.append(Probed(worker=worker, log_probs_NK=self._labellers[worker].probe(canary)))

    def restart(self, worker: str) -> None:
        raise AssertionError("a worker in the caller's thread can't hang")

    def stop(self, worker: str) -> None:
        self._labellers.pop(worker, None)

    def poll(self, timeout_s: float) -> Sequence[Event]:
        if not self._events and self._waiting:
            worker, assignment = self._waiting.popleft()
            self._events.append(Finished(worker=worker, outcome=self._labellers[worker].label(assignment)))
        events = list(self._events)
        self._events.clear()
        return events

    def notice(self) -> str:
        return ""

    def close(self) -> None:
        self._labellers.clear()
