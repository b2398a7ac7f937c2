"""How the running model answered over the last ten minutes: what a device tells with each Sync, for the gates of a rollout.

Counts and a bounded draw of latencies by the minute, in memory only; no input and no answer is kept. A switch to another release begins
anew, so that what is told is always of the release that answers now.
"""

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workers.rpc import fleet_pb2 as pb

WINDOW_MINUTES = 10
LATENCIES_A_MINUTE = 128
"""The first of each minute: enough for a median."""


@dataclass
class _Minute:
    number: int
    answers: int = 0
    confidence_sum: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)


class ServingWindow:
    """Thread-safe; `answered` costs a few microseconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: deque[_Minute] = deque(maxlen=WINDOW_MINUTES)

    def answered(self, confidences: Sequence[float], latency_ms: float) -> None:
        """A request was answered; one confidence a sample. What is not a number is no answer."""
        if not all(math.isfinite(confidence) for confidence in confidences):
            return
        number = int(self._clock() // 60)
        with self._lock:
            if not self._minutes or self._minutes[-1].number != number:
                self._minutes.append(_Minute(number))
            minute = self._minutes[-1]
            minute.answers += len(confidences)
            minute.confidence_sum += sum(confidences)
            if len(minute.latencies_ms) < LATENCIES_A_MINUTE:
                minute.latencies_ms.append(latency_ms)

    def begin_anew(self) -> None:
        with self._lock:
            self._minutes.clear()

    def told(self) -> pb.ServingStats | None:
        """None where nothing was answered lately."""
        oldest = int(self._clock() // 60) - WINDOW_MINUTES
        with self._lock:
            minutes = [minute for minute in self._minutes if minute.number > oldest]
            answers = sum(minute.answers for minute in minutes)
            if not answers:
                return None
            return pb.ServingStats(
                answers=answers,
                confidence_mean=min(sum(minute.confidence_sum for minute in minutes) / answers, 1.0),
                latency_p50_ms=statistics.median(latency for minute in minutes for latency in minute.latencies_ms),
            )
