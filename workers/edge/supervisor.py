"""Telling the supervisor that started us (systemd's notify protocol, one datagram) that we are ready, and that we live.

Without `NOTIFY_SOCKET` in the environment nothing is told and nothing is different. Whether the device lives is `Pulse`'s judgement.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping


class Supervisor:
    """What started this process. `watchdog_s` is how often it wants to hear that we live; None if it does not ask."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        asked_us = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(asked_us) / 1e6 if self._address and asked_us.isdigit() else None

    def watch(self, pulse: "Pulse", stop: threading.Event) -> None:
        """Until `stop`: say that we live, three times as often as asked, while the pulse does."""
        while self.watchdog_s is not None and not stop.wait(self.watchdog_s / 3):
            if pulse.beats:
                self.alive()

    def ready(self) -> None:
        self._tell("READY=1")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, what: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.connect(address)
            peer.send(what.encode())


class Pulse:
    """Whether the agent's loop moves. Thread-safe: one number."""

    def __init__(self, silence_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`silence_s`: the longest that anything the loop waits for may take."""
        self._silence_s, self._clock = silence_s, clock
        self._until_s = clock() + silence_s

    def beat(self, rest_s: float = 0.0) -> None:
        """Something moved; what comes now is a rest of so many seconds."""
        self._until_s = self._clock() + rest_s + self._silence_s

    @property
    def beats(self) -> bool:
        return self._clock() < self._until_s
