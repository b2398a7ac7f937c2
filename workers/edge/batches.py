"""Requests that come while the model is busy are answered together.

The first caller runs the model at once, alone: a single request never waits for others. Whoever comes meanwhile queues; when the model
is free one of those who wait runs it for as many of them as fit. No thread and no timer of its own. Callers of another model, or with
rows of another width, form batches of their own. A batch that fails is for `serving` to take apart: each caller in it hears the same error.
"""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DeviceError
from workers.edge.model_process import Logits

MAX_ROWS = 64
"""Rows in one batch, but for a single request of more."""


class Runs(Protocol):
    """What a batch is run on."""

    def run(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> Logits: ...


class BatchFailedError(DeviceError):
    """A batch of several callers' requests failed; which of them is to blame is not known."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"a batch of several requests failed ({self.found}); expected an answer; each is asked again alone"


@dataclass(eq=False)
class _Request:
    model: Runs
    batch: NDArray[Any]
    turn: threading.Event = field(default_factory=threading.Event)
    """Set when it has its answer, or is to run the next batch."""
    logits: Logits | None = None
    error: Exception | None = None

    def fits(self, first: "_Request") -> bool:
        return self.model is first.model and self.batch.dtype == first.batch.dtype and self.batch.shape[1] == first.batch.shape[1]


class Batches:
    """One model run at a time, for as many callers as wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[_Request] = deque()

    def run(self, model: Runs, batch: NDArray[Any]) -> Logits:
        """Logits of this caller's rows. Raises what the model raises, or BatchFailedError if others were in it."""
        mine = _Request(model, batch)
        with self._lock:
            waits = self._busy
            self._busy = True
            if waits:
                self._waiting.append(mine)
        if waits:
            mine.turn.wait()
        if mine.logits is None and mine.error is None:
            self._run(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.logits is not None
        return mine.logits

    def _run(self, first: _Request) -> None:
        """Run one batch in the caller's thread, then let the next one that waits run its own."""
        together = self._gather(first)
        try:
            if len(together) == 1:
                first.logits = first.model.run(first.batch)
            else:
                _share(first.model.run(np.concatenate([request.batch for request in together])), together)
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller must hear it, in its own thread
            for request in together:
                request.error = error if len(together) == 1 else BatchFailedError(str(error)[:200])
        finally:
            with self._lock:
                following = self._waiting.popleft() if self._waiting else None
                self._busy = following is not None
            for request in (*together[1:], *([following] if following is not None else [])):
                request.turn.set()

    def _gather(self, first: _Request) -> list[_Request]:
        together, rows = [first], len(first.batch)
        with self._lock:
            for request in tuple(self._waiting):
                if request.fits(first) and rows + len(request.batch) <= MAX_ROWS:
                    self._waiting.remove(request)
                    together.append(request)
                    rows += len(request.batch)
        return together


def _share(logits: Logits, together: list[_Request]) -> None:
    start = 0
    for request in together:
        end = start + len(request.batch)
        request.logits = Logits(logits_BK=logits.logits_BK[start:end], run_s=logits.run_s)
        start = end
