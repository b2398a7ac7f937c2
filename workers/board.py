"""The board: what each trainer is doing, for the driver to show and the teachers to pace themselves by.

Trainers write fire-and-forget, at most a few times a second; the driver reads it whole. `BoardState` is the plain value behind the
actor. Nothing durable lives here: a lost board costs a display, never a step. Ray starts it again, and it has forgotten everything.
"""

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pipeline.errors import KdpipeError

logger = logging.getLogger(__name__)

RETRIES = 3
"""Calls that meet the board while Ray starts it again wait for it, so that an error or a stop is not told to nobody."""


class TrainingState(StrEnum):
    STARTING = "STARTING"
    TRAINING = "TRAINING"
    WAITING = "WAITING"
    """Ready, and no labels to go on with."""
    DONE = "DONE"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """One trainer at one moment."""

    state: TrainingState
    step: int = 0
    steps: int = 0
    live_rows: int = 0
    """Rows of the generation's live pass that the student has consumed."""
    rows: int = 0
    """All rows consumed, replays included."""
    epoch: int = 0
    """0 is the live pass."""
    skipped: int = 0
    workers: int = 0
    """At work on it; 0 before they are."""
    loss: float | None = None
    first_step_unix_s: float | None = None
    last_step_unix_s: float | None = None
    corrupt: tuple[str, ...] = ()
    """Shards it found bad and waits for, by the name that the log commits them under."""
    says: str = ""

    @property
    def in_training(self) -> bool:
        """It counts for pacing the teachers: it consumes the live pass, or waits to."""
        return self.state in (TrainingState.TRAINING, TrainingState.WAITING)

    @property
    def starved(self) -> bool:
        """It waits for labels."""
        return self.state is TrainingState.WAITING and not self.corrupt

    @property
    def ready(self) -> bool:
        """It is past its start: labels that come now are learnt from."""
        return self.in_training or self.state is TrainingState.DONE


class BoardState:
    """Latest progress and error of each student, and whether all are asked to stop."""

    def __init__(self) -> None:
        self._progress: dict[str, TrainingProgress] = {}
        self._bad: dict[str, dict[int, tuple[str, ...]]] = {}
        """Student -> rank above 0 -> shards."""
        self._errors: dict[str, KdpipeError] = {}
        self._stopping = False

    def report(self, student: str, progress: TrainingProgress) -> bool:
        """Keep it. True: go on; False: stop at the next step."""
        self._progress[student] = progress
        if progress.state is TrainingState.STARTING:
            self._bad.pop(student, None)  # its workers have ended
        return not self._stopping

    def found_bad(self, student: str, rank: int, shards: tuple[str, ...]) -> bool:
        """What a rank above 0 waits for, perhaps nothing; all else is rank 0's to report. Answers as `report` does."""
        self._bad.setdefault(student, {})[rank] = shards
        return not self._stopping

    def fail(self, student: str, error: KdpipeError) -> None:
        self._errors[student] = error

    def error(self, student: str) -> KdpipeError | None:
        return self._errors.get(student)

    def snapshot(self) -> dict[str, TrainingProgress]:
        """The latest of each student, with what its other ranks found bad."""
        return {
            name: replace(progress, corrupt=tuple(sorted({*progress.corrupt, *itertools.chain(*self._bad.get(name, {}).values())})))
            for name, progress in self._progress.items()
        }

    def stop(self) -> None:
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping


class Board:
    """A handle to the board, for any process of the cluster. Same methods as `BoardState`; `report` and `found_bad` do not wait.

    No method raises because the board is lost: what is told is lost with it, what is asked is answered by what this handle knows.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._answer: Any = None
        self._go_on = True
        self._asked_to_stop = False
        self._seen: dict[str, TrainingProgress] = {}

    def report(self, student: str, progress: TrainingProgress) -> bool:
        """Send it off. What comes back is the answer to an earlier report, so a stop takes one report to be seen."""
        return self._sent(self._actor.report.remote(student, progress))

    def found_bad(self, student: str, rank: int, shards: tuple[str, ...]) -> bool:
        """As `report`."""
        return self._sent(self._actor.found_bad.remote(student, rank, shards))

    def _sent(self, reference: Any) -> bool:
        import ray

        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._go_on = bool(self._get(self._answer, lost=True))  # a lost board: nobody asked to stop
            self._answer = None
        self._answer = self._answer or reference
        return self._go_on

    def fail(self, student: str, error: KdpipeError) -> None:
        self._get(self._actor.fail.remote(student, error), lost=None)

    def error(self, student: str) -> KdpipeError | None:
        """What ended the student's training, as far as the board knows."""
        found: KdpipeError | None = self._get(self._actor.error.remote(student), lost=None)
        return found

    def snapshot(self) -> dict[str, TrainingProgress]:
        """The latest of each; the one seen last where the board is lost."""
        found: Mapping[str, TrainingProgress] = self._get(self._actor.snapshot.remote(), lost=self._seen)
        self._seen = dict(found)
        return dict(found)

    def stop(self) -> None:
        """Ask every trainer to write a checkpoint and end."""
        self._asked_to_stop = True
        self._get(self._actor.stop.remote(), lost=None)

    def stopping(self) -> bool:
        """Somebody asked to stop: through this handle, or through another and the board still knows."""
        return self._asked_to_stop or bool(self._get(self._actor.stopping.remote(), lost=False))

    def _get(self, reference: Any, *, lost: Any) -> Any:
        """The answer; `lost` where the board is."""
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayActorError as error:
            logger.warning("the board is lost", extra={"error": str(error)[:200]})
            return lost

    def __reduce__(self) -> tuple[type["Board"], tuple[Any]]:
        return Board, (self._actor,)


def start_board() -> Board:
    """A new board on the connected Ray cluster; it asks for no CPU."""
    import ray

    return Board(ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=RETRIES)(BoardState).remote())
