"""The last few inputs that the device answered, for a shadow run: in memory only, few, and never more than so many bytes."""

import sys
import threading
from collections import deque
from collections.abc import Sequence

from workers.edge.inputs import Input

MAX_INPUTS = 64
MAX_BYTES = 16 << 20
"""Of all of them: a caller that sends megabytes must not take the agent's memory."""
FLOAT_BYTES = 4


class LiveInputs:
    """Thread-safe. The oldest go first. Nothing is copied: this is in the way of every answer."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Input, int]] = deque()
        self._bytes = 0
        self._heard = threading.Condition()

    def add(self, inputs: Sequence[Input]) -> None:
        with self._heard:
            for value in inputs[-MAX_INPUTS:]:
                size = sys.getsizeof(value) if isinstance(value, str) else FLOAT_BYTES * len(value)
                self._kept.append((value, size))
                self._bytes += size
                while self._bytes > MAX_BYTES or len(self._kept) > MAX_INPUTS:
                    self._bytes -= self._kept.popleft()[1]
            self._heard.notify_all()

    def newest(self) -> list[Input]:
        """Oldest first."""
        with self._heard:
            return [value for value, _ in self._kept]

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Wait until so many are here, or the time is over. Whether they are."""
        with self._heard:
            return self._heard.wait_for(lambda: len(self._kept) >= count, timeout_s)

    def clear(self) -> None:
        with self._heard:
            self._kept.clear()
            self._bytes = 0
