"""How much one caller may ask, and all together: token buckets, and what a refused caller is told.

A bucket fills at a steady rate up to a burst. Buckets are few and small: one for each device that is known, and one for each of the last
addresses that failed to enrol, the oldest of which is forgotten first.
"""

from collections import OrderedDict
from dataclasses import dataclass

from pipeline.errors import FleetError
from workers.orchestrator.pacing import Pacing


class RateExceededError(FleetError):
    """A caller asks more often than it may. Over gRPC the wait comes with it as `grpc-retry-pushback-ms`."""

    def __init__(self, who: str, per_s: float, wait_s: float) -> None:
        super().__init__(who, per_s, wait_s)
        self.who, self.per_s, self.wait_s = who, per_s, wait_s

    def __str__(self) -> str:
        return f"{self.who} calls too often; expected at most {self.per_s:.3g} a second; ask again in {self.wait_s:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What callers may ask of one replica."""

    device_calls_per_s: float = 10.0
    """Of one device, on average."""
    device_calls_burst: float = 100.0
    device_calls_at_once: int = 8
    """Of one device: a caller that does not take its answers holds no more of a port's calls than that."""
    device_reports_per_s: float = 1.0
    """New reports of one device, on average: an install is about eight of them."""
    device_reports_burst: float = 256.0
    device_downloads: int = 2
    """Of one device at once: the one that goes on, and one that broke off without a word."""
    downloads: int = 32
    """Of all devices at once."""
    download_s: float = 300.0
    """Longest deadline that a download may have; what did not come in time is asked for by its range."""
    stalled_s: float = 30.0
    """How long a caller may take nothing of what is sent to it."""
    certificates_per_s: float = 1 / 60
    """Of one key or one device, on the enrolment port."""
    certificates_burst: float = 10.0
    enrolment_failures_per_s: float = 1.0
    """Of one address; enrolments that succeed are not counted."""
    enrolment_failures_burst: float = 30.0
    connections: int = 20_000
    """Open at once, on each port."""
    streams: int = 16
    """Calls at once over one connection."""
    device_asks_per_s: float = 1.0
    """Questions of one device to the teacher, on average."""
    device_asks_burst: float = 60.0
    asks_per_s: float = 200.0
    """Questions of all devices together, in any second."""
    asks_at_once: int = 128
    """Questions that wait for the teacher, those it is answering included: far fewer than a port has calls, so that Sync has room."""
    ask_s: float = 30.0
    """Longest deadline that a question may have."""
    syncs_per_s: float = Pacing.calls_per_s
    """Sync calls without reports of all devices together, in any second: when a fleet comes back from an outage, most are told to wait."""


BURST_SHARE = 0.1
"""Of the calls of a second that all devices together may make: so many may come at once."""


class Buckets:
    """One bucket per name; at most `most` of them."""

    def __init__(self, *, per_s: float, burst: float, most: int = 100_000, least_wait_s: float = 0.0) -> None:
        self._per_s, self._burst, self._most, self._least_wait_s = per_s, burst, most, least_wait_s
        self._filled: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, who: str, *, now_s: float, count: int = 1) -> None:
        """Take `count` tokens, at most a burst. Raises RateExceededError where there are fewer."""
        self.check(name, who, now_s=now_s, count=count)
        self._set(name, self._level(name, now_s) - count, now_s)

    def check(self, name: str, who: str, *, now_s: float, count: int = 1) -> None:
        """Take nothing. Raises RateExceededError where there are fewer than `count` tokens."""
        lacking = count - self._level(name, now_s)
        if lacking > 0:
            raise RateExceededError(who, self._per_s, max(self._least_wait_s, lacking / self._per_s))

    def spend(self, name: str, *, now_s: float) -> None:
        """Take a token where there is one: who asks again and again, and is refused for it, waits no longer for that."""
        if (level := self._level(name, now_s)) >= 1.0:
            self._set(name, level - 1.0, now_s)

    def _set(self, name: str, level: float, now_s: float) -> None:
        self._filled[name] = (level, now_s)
        if len(self._filled) > self._most:
            self._filled.popitem(last=False)

    def _level(self, name: str, now_s: float) -> float:
        level, at_s = self._filled.get(name, (self._burst, now_s))
        return min(self._burst, level + (now_s - at_s) * self._per_s)


def of_all(per_s: float) -> Buckets:
    """One bucket for all devices together: no more than `per_s` calls in any second."""
    burst = BURST_SHARE * per_s
    return Buckets(per_s=per_s - burst, burst=max(1.0, burst), least_wait_s=1.0)
