"""How the running model answered over the last ten minutes: what a device tells with each Sync, for the gates of a rollout.

Counts and a bounded draw of latencies by the minute, in memory only; no input and no answer is kept. A switch to another release begins
anew, so that what is told is always of the release that answers now. Confidence, latency and agreement are those of the device's own model,
whoever gave the answer: the teacher's answers to what the model was unsure of count nowhere here, least of all as agreement. They are the
hard inputs, fewer of them for a model that is surer, and a comparison of releases by them would be one of what each found hard.
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
    asked: int = 0
    agreed: int = 0
    latencies_ms: list[float] = field(default_factory=list)


class ServingWindow:
    """Thread-safe; `answered` costs a few microseconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: deque[_Minute] = deque(maxlen=WINDOW_MINUTES)
        self._digest = ""

    def answered(self, confidences: Sequence[float], latency_ms: float) -> None:
        """A request was answered; one confidence a sample. What is not a number is no answer."""
        if not all(math.isfinite(confidence) for confidence in confidences):
            return
        number = self.minute
        with self._lock:
            if not self._minutes or self._minutes[-1].number != number:
                self._minutes.append(_Minute(number))
            minute = self._minutes[-1]
            minute.answers += len(confidences)
            minute.confidence_sum += sum(confidences)
            if len(minute.latencies_ms) < LATENCIES_A_MINUTE:
                minute.latencies_ms.append(latency_ms)

    @property
    def minute(self) -> int:
        return int(self._clock() // 60)

    def held_against_teacher(self, digest: str, minute: int, *, agreed: bool) -> None:
        """An answer that this release gave in that minute, drawn whatever the model thought of it, against the teacher's.

        Counted beside the answers of its minute, and forgotten with them, so that no more were asked than answered. Not counted where
        another release answers now.
        """
        with self._lock:
            found = next((one for one in self._minutes if one.number == minute and one.asked < one.answers), None)
            if found is not None and digest == self._digest:
                found.asked += 1
                found.agreed += agreed

    def begin_anew(self, digest: str) -> None:
        """From now on this release answers."""
        with self._lock:
            self._digest = digest
            self._minutes.clear()

    def told(self) -> pb.ServingStats | None:
        """None where nothing was answered lately."""
        oldest = self.minute - WINDOW_MINUTES
        with self._lock:
            minutes = [minute for minute in self._minutes if minute.number > oldest]
            answers = sum(minute.answers for minute in minutes)
            if not answers:
                return None
            return pb.ServingStats(
                answers=answers,
                confidence_mean=min(sum(minute.confidence_sum for minute in minutes) / answers, 1.0),
                latency_p50_ms=statistics.median(latency for minute in minutes for latency in minute.latencies_ms),
                asked=sum(minute.asked for minute in minutes),
                agreed=sum(minute.agreed for minute in minutes),
            )
