"""Teachers as Ray actors.

An actor is a shell around `Labeller`: a small spec goes in, about 200 bytes a unit come back, label bytes go from the actor straight to
the store. Ray restarts a dead actor (`max_restarts=-1`) and never repeats a call (`max_task_retries=0`): the ledger owns retries.
Some calls run at once in an actor, so that one unit is read and one written while the teacher works on a third.
"""

import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from pipeline.config import UNITS_PER_TEACHER
from pipeline.errors import KdpipeError, TeacherError
from workers.labelling.crew import Broken, Died, Event, Finished, Probed, Ready
from workers.labelling.labeller import Labeller
from workers.labelling.messages import Assignment, Canary, Failed, Labelled, LabellerSpec
from workers.threads import loading, use_threads

SLOW_START_S = 30.0
RETRY_READY_S = 0.5


class Call(Enum):
    """What an actor was asked."""

    READY = "ready"
    LABEL = "label"
    PROBE = "probe"


class TeacherStartError(TeacherError):
    """A teacher actor could not load what it needs, and what it raised is none of our errors."""

    def __init__(self, use: str, reason: str) -> None:
        super().__init__(use, reason)
        self.use, self.reason = use, reason

    def __str__(self) -> str:
        return f"teacher {self.use} does not start: {self.reason}; expected it to load; try its code alone, then run again"


class TeacherActor:
    """A shell; `Labeller` is tested without Ray."""

    def __init__(self, spec: LabellerSpec) -> None:
        self._labeller: Labeller | None = None
        self._error: KdpipeError | None = None
        use_threads(spec.teacher.threads)  # before anything brings torch along
        try:
            with loading():
                self._labeller = Labeller.load(spec)
        except KdpipeError as error:
            self._error = error  # kept: Ray turns what a constructor raises into text
        except Exception as error:  # noqa: BLE001 - the user's code, at a process boundary
            self._error = TeacherStartError(spec.teacher.use, f"{type(error).__name__}: {error}")

    def fingerprint(self) -> str:
        return self._loaded().teacher.fingerprint

    def label(self, assignment: Assignment) -> Labelled | Failed:
        return self._loaded().label(assignment)

    def probe(self, canary: Canary) -> NDArray[np.float32] | None:
        return self._loaded().probe(canary)

    def _loaded(self) -> Labeller:
        if self._labeller is None:
            assert self._error is not None
            raise self._error
        return self._labeller


_REMOTE: Any = ray.remote(max_restarts=-1, max_task_retries=0, max_concurrency=UNITS_PER_TEACHER + 1)(TeacherActor)


class RayCrew:
    """A `Crew` of `TeacherActor`s. Ray must be connected."""

    def __init__(self, spec: LabellerSpec, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec, self._clock = spec, clock
        gpus = {"GPU": spec.teacher.gpus} if spec.teacher.gpus else {}
        self._asked = {"CPU": spec.teacher.cpus, **gpus, **spec.teacher.resources}
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, tuple[str, Call]] = {}
        """Ref -> (worker, what was asked of it)."""
        self._starting: dict[str, float] = {}
        self._ask_again: dict[str, float] = {}
        self._started = 0

    def start(self) -> str:
        self._started += 1
        worker = f"teacher-{self._started}"
        teacher = self._spec.teacher
        options = _REMOTE.options(num_cpus=teacher.cpus, num_gpus=teacher.gpus, resources=dict(teacher.resources))
        self._actors[worker] = options.remote(self._spec)
        self._starting[worker] = self._clock()
        self._ask_ready(worker)
        return worker

    def submit(self, worker: str, assignment: Assignment) -> None:
        self._calls[self._actors[worker].label.remote(assignment)] = (worker, Call.LABEL)

    def probe(self, worker: str, canary: Canary) -> None:
        self._calls[self._actors[worker].probe.remote(canary)] = (worker, Call.PROBE)

    def restart(self, worker: str) -> None:
        ray.kill(self._actors[worker], no_restart=False)

    def stop(self, worker: str) -> None:
        self._forget_calls(worker)
        self._starting.pop(worker, None)
        self._ask_again.pop(worker, None)
        ray.kill(self._actors.pop(worker))

    def poll(self, timeout_s: float) -> Sequence[Event]:
        for worker in [worker for worker, at_s in self._ask_again.items() if at_s <= self._clock()]:
            del self._ask_again[worker]
            self._ask_ready(worker)
        if not self._calls:
            time.sleep(timeout_s)
            return []
        ray.wait(list(self._calls), timeout=timeout_s)
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        return [event for ref in done if ref in self._calls and (event := self._event_of(ref))]

    def notice(self) -> str:
        slow = [at_s for at_s in self._starting.values() if self._clock() - at_s > SLOW_START_S]
        if not slow:
            return ""
        total, free = ray.cluster_resources(), ray.available_resources()
        there = ", ".join(f"{name} {total.get(name, 0):g} ({free.get(name, 0):g} free)" for name in self._asked)
        asked = ", ".join(f"{name} {amount:g}" for name, amount in self._asked.items())
        return f"{len(slow)} teacher(s) not ready after {self._clock() - min(slow):.0f} s: each asked for {asked}; the cluster has {there}"

    def close(self) -> None:
        for worker in list(self._actors):
            self.stop(worker)

    def _ask_ready(self, worker: str) -> None:
        self._calls[self._actors[worker].fingerprint.remote()] = (worker, Call.READY)

    def _forget_calls(self, worker: str) -> None:
        self._calls = {ref: call for ref, call in self._calls.items() if call[0] != worker}

    def _event_of(self, ref: Any) -> Event | None:
        worker, call = self._calls.pop(ref)
        try:
            answer = ray.get(ref)
        except (ActorDiedError, ActorUnavailableError, RayActorError) as error:
            # All its calls fail together; the first to be seen stands for them. It is asked until it is back.
            self._forget_calls(worker)
            self._starting.setdefault(worker, self._clock())
            self._ask_again[worker] = self._clock() + RETRY_READY_S
            return None if call is Call.READY else Died(worker=worker, reason=f"the teacher's process died: {type(error).__name__}")
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, KdpipeError) else TeacherStartError(self._spec.teacher.use, str(error.cause))
            return Broken(worker=worker, error=cause)
        if call is Call.READY:
            self._starting.pop(worker, None)
            return Ready(worker=worker, teacher=answer)
        if call is Call.PROBE:
            return Probed(worker=worker, log_probs_NK=answer)
        return Finished(worker=worker, outcome=answer)
