"""How a person stops a run: Ctrl-C and SIGTERM set one flag that every stage looks at."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from pipeline.errors import KdpipeError


class StoppedError(KdpipeError):
    """The user asked the run to stop. What was committed stays; the same command goes on."""

    exit_code = 130

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command

    def __str__(self) -> str:
        return f"stopped; every process it started has ended, nothing is lost; `{self.command}` goes on from here"


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """The flag that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
