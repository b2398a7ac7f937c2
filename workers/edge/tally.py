"""What became of a device's questions to its teacher, for `status`, the metrics and the log. No input and no answer is kept."""

import logging
import threading
from typing import Literal

from workers.edge.allowance import AskOptions
from workers.edge.metrics import EdgeMetrics
from workers.rpc import local_pb2 as pb

logger = logging.getLogger(__name__)
MAX_SAID = 100
"""Reasons that are said once each; a teacher that finds more says no more."""
Way = Literal["escalation", "audit"]


class Tally:
    """Thread-safe."""

    def __init__(self, options: AskOptions, metrics: EdgeMetrics) -> None:
        self._options, self._metrics, self._lock = options, metrics, threading.Lock()
        self._asked = self._answered = self._used = 0
        self._last_failure = ""
        self._said: set[str] = set()

    def count(self, way: Way, outcome: str, samples: int = 1) -> None:
        if samples:
            self._metrics.asked(way, outcome, samples)

    def heard(self, *, asked: int, answered: int, failure: str) -> None:
        with self._lock:
            self._asked += asked
            self._answered += answered
            self._last_failure = "" if answered else failure

    def used(self, samples: int) -> None:
        with self._lock:
            self._used += samples

    def warn_once(self, reason: str) -> None:
        with self._lock:
            is_new = reason not in self._said and len(self._said) < MAX_SAID
            if is_new:
                self._said.add(reason)
        if is_new:
            logger.warning("the teacher's answers are ignored", extra={"reason": reason})

    def shown(self) -> pb.Asking:
        with self._lock:
            return pb.Asking(
                below=self._options.below,
                share=self._options.share,
                asked=self._asked,
                answered=self._answered,
                used=self._used,
                last_failure=self._last_failure,
            )
