"""Telling the supervisor that started us (systemd's notify protocol, one datagram) that we are ready, and that we live.

Without `NOTIFY_SOCKET` in the environment nothing is told and nothing is different. Whether the device lives is the caller's judgement.
"""

import contextlib
import socket
from collections.abc import Mapping


class Supervisor:
    """What started this process. `watchdog_s` is how often it wants to hear that we live; None if it does not ask."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        asked_us = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(asked_us) / 1e6 if self._address and asked_us.isdigit() else None

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
