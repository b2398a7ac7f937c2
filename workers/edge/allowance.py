"""Whether a device may put questions to its teacher now: what its owner allows, a budget by the hour, and a pause after failures.

Pure but for a lock; time and chance are arguments. Each of the two ways of asking (`asking`) has an allowance of its own, so that how many
questions an unsure model has asked never decides which answers are drawn to be held against the teacher's. Always holds: after a failure
one question goes out at the end of a pause that grows, and no other before it is known how that one went. In memory only: a new process
begins with a full budget, which is small against the hour's.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError
from workers.edge.pauses import pause_s

BURST_SHARE = 0.1
"""Of an hour's questions, that may be asked at once, on top of those of any hour."""
FIRST_PAUSE_S = 1.0
MAX_WAIT_MS = 30_000.0
"""The orchestrator takes no question that may take longer."""


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """What the device's owner allows; nothing, unless said otherwise. Raises ConfigError for what cannot be meant."""

    below: float = 0.0
    """Ask where the model gives its class a smaller probability; 0 never."""
    share: float = 0.0
    """Of all answers, drawn whatever the model thought, that are held against the teacher's; 0 none."""
    per_hour: float = 60.0
    """Questions of both ways together."""
    wait_ms: float = 300.0
    """An unsure answer waits no longer."""

    def __post_init__(self) -> None:
        for name, value in (("--ask-below", self.below), ("--ask-share", self.share)):
            if not 0 <= value <= 1:
                raise ConfigError(name, f"{value:g}", "a number from 0 (never) to 1 (always)", "`kdpipe edge run --help`")
        if not (self.per_hour >= 1 and math.isfinite(self.per_hour)):
            raise ConfigError("--asks-per-hour", f"{self.per_hour:g}", "1 or more; without --ask-below and --ask-share nothing is asked")
        if not 0 < self.wait_ms <= MAX_WAIT_MS:
            raise ConfigError("--ask-wait-ms", f"{self.wait_ms:g}", f"more than 0, at most {MAX_WAIT_MS:g}", "`kdpipe edge run --help`")

    @property
    def ways(self) -> int:
        return (self.below > 0) + (self.share > 0)


Denied = Literal["", "paused", "over_budget"]


@dataclass(frozen=True, kw_only=True)
class Leave:
    """How many questions may go, and why the others may not."""

    count: int
    denied: Denied = ""
    attempt: int = 0
    """Failures before it."""


class Allowance:
    """One way's budget and pauses. Thread-safe. Each leave of more than 0 ends in `reached` or `failed`."""

    def __init__(self, per_hour: float, *, rng: random.Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst = per_hour / 3600, max(1.0, BURST_SHARE * per_hour)
        self._rng, self._clock, self._lock = rng, clock, threading.Lock()
        self._left, self._counted_s = self._burst, clock()
        self._failures, self._paused_until_s, self._trying = 0, 0.0, False

    def admit(self, wanted: int) -> Leave:
        """Leave for at most so many; for one, to try it, where the last failed. None are wanted: none are denied."""
        with self._lock:
            now_s = self._clock()
            self._left = min(self._burst, self._left + self._per_s * (now_s - self._counted_s))
            self._counted_s = now_s
            if self._failures and (self._trying or now_s < self._paused_until_s):
                return Leave(count=0, denied="paused")
            count = min(wanted, int(self._left), 1 if self._failures else wanted)
            if not count:
                return Leave(count=0, denied="over_budget")
            self._left -= count
            self._trying = self._failures > 0
            return Leave(count=count, denied="paused" if self._failures else "over_budget", attempt=self._failures)

    def reached(self) -> None:
        """The teacher answers."""
        with self._lock:
            self._failures, self._trying = 0, False

    def failed(self, leave: Leave) -> None:
        """It does not. Of those that were under way together one counts."""
        with self._lock:
            if leave.attempt == self._failures:
                self._failures, self._trying = self._failures + 1, False
                self._paused_until_s = self._clock() + pause_s(FIRST_PAUSE_S, failures=self._failures, rng=self._rng)
