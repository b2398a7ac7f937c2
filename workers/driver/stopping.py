"""How a person stops a run: Ctrl-C and SIGTERM set one flag that every stage looks at.

Work that can't look at it, and may be killed anywhere, stands in `Stop.at_once`: there the signal interrupts it.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from pipeline.errors import KdpipeError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KdpipeError):
    """The user asked the run to stop. What was committed stays; the same command goes on."""

    exit_code = 130

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command

    def __str__(self) -> str:
        return f"stopped; every process it started has ended, nothing is lost; `{self.command}` goes on from here"


class Stop(threading.Event):
    """The flag. Without `stop_on_signals` around it, nobody but the program sets it."""

    def __init__(self) -> None:
        super().__init__()
        self._interrupts = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """The signal interrupts what stands within, by KeyboardInterrupt; so does one that came before. For the main thread.

        Where the work swallows the interrupt (an exception in a fork's callback is ignored, and Ray forks), it is raised at the end.
        Signal handlers that the work puts in place of ours (`ray.init` does, with one that exits) are undone, and their exit is a stop.
        """
        if self.is_set():
            raise KeyboardInterrupt
        ours = {number: signal.getsignal(number) for number in SIGNALS}
        self._interrupts = True
        try:
            with _restored(ours):
                yield
            if self.is_set():
                raise KeyboardInterrupt
        except SystemExit as error:
            self.set()
            raise KeyboardInterrupt from error
        finally:
            self._interrupts = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """A signal handler; the second signal interrupts wherever it finds the run."""
        again = self.is_set()
        self.set()
        if again or self._interrupts:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """The flag that Ctrl-C and SIGTERM set."""
    stop = Stop()
    with _restored({number: signal.signal(number, stop.on_signal) for number in SIGNALS}):
        yield stop


@contextlib.contextmanager
def _restored(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
