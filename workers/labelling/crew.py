"""Teachers at work somewhere else, as the driver sees them: start, submit, and events to poll. `ray_crew` has the real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import KdpipeError
from workers.labelling.messages import Assignment, Canary, Failed, Labelled


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker has loaded its teacher and takes assignments: for the first time, or again after it died."""

    worker: str
    teacher: str
    """Fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    worker: str
    outcome: Labelled | Failed


@dataclass(frozen=True, kw_only=True)
class Probed:
    worker: str
    log_probs_NK: NDArray[np.float32] | None
    """Of the canary's samples, NaN where the teacher failed; None if the source could not be read."""


@dataclass(frozen=True, kw_only=True)
class Died:
    """The worker's process is gone and with it what it had; it starts again by itself and will be Ready."""

    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The worker can't load its source or teacher; another try would end the same."""

    worker: str
    error: KdpipeError


Event = Ready | Finished | Probed | Died | Broken


class Crew(Protocol):
    """A set of workers. Used by one thread; no method waits but `poll`."""

    def start(self) -> str:
        """Begin to start a worker; its name."""
        ...

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Give work to a worker that is ready."""
        ...

    def probe(self, worker: str, canary: Canary) -> None:
        """Ask a worker that is ready what its teacher says about the canary."""
        ...

    def restart(self, worker: str) -> None:
        """End the worker's process, whatever it is doing; it dies and comes back."""
        ...

    def stop(self, worker: str) -> None:
        """End the worker for good, without an event."""
        ...

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """What happened; waits up to `timeout_s` for the first event."""
        ...

    def notice(self) -> str:
        """Why a worker is still not ready, if that takes suspiciously long; else empty."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...
