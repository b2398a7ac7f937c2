"""Reading ahead: while a student learns from some batches, a thread reads, checks and decodes the next ones.

What is read is the same, to the byte and in the same order, as without: a batch depends on its cursor and nothing else. Once the batches
that were read ahead are begun, the thread reads as many again: `AHEAD_BATCHES`, or fewer if they come to `AHEAD_BYTES`, so that small ones
share what a change of threads costs. Twice that is held at most. It goes on past the end of an epoch: the first batch of the next one is
mostly the first of a window, which takes longest. An error of reading ahead is forgotten, and the batch read anew once it is asked for,
which raises it there; so is that the tail was not there yet.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Protocol

from pipeline.labels.order import Cursor
from pipeline.labels.reader import EndOfEpoch, LabelBatch, NotYet

AHEAD_BATCHES = 16
AHEAD_BYTES = 2**22
"""Of inputs and labels, decoded. One batch may be more."""

Found = LabelBatch | NotYet | EndOfEpoch


class Reader(Protocol):
    """Where labels come from: `LabelReader`, or what stands in for one."""

    def start(self) -> Cursor: ...

    def read(self, cursor: Cursor) -> Found: ...


Run = deque[tuple[Cursor, LabelBatch | EndOfEpoch]]
"""What lies at cursors that follow each other."""


class ReadingAhead:
    """A `Reader` over another, which only one thread uses at a time: this one's caller, or the one that reads ahead."""

    def __init__(self, reader: Reader, *, epochs: bool = True) -> None:
        """Without `epochs`, nothing is read past the end of an epoch until it is asked for."""
        self._reader, self._epochs = reader, epochs
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reads ahead")
        self._run: Run = deque()
        """What is asked for next."""
        self._ahead: tuple[Run, Future[None]] | None = None
        """What follows on that, and is being read."""
        self._enough = Event()

    def start(self) -> Cursor:
        self._settle()
        return self._reader.start()

    def read(self, cursor: Cursor) -> Found:
        """The batch at `cursor`, read already or read now; raises what the reader raises."""
        if not self._run and self._ahead is not None:
            self._run = self._turn(*self._ahead)
        if self._run and self._run[0][0] == cursor:
            return self._run.popleft()[1]
        self._settle()
        found = self._reader.read(cursor)
        if isinstance(found, LabelBatch):
            self._look(found.cursor_after)
        return found

    def close(self) -> None:
        """End the thread. What was read ahead is forgotten."""
        self._settle()
        self._pool.shutdown()

    def _turn(self, run: Run, reading: Future[None]) -> Run:
        """What was read ahead, while more is read."""
        self._ahead = None
        reading.exception()  # waits; it is raised by who reads there anew
        if run:
            last = run[-1][1]
            if isinstance(last, LabelBatch):
                self._look(last.cursor_after)
            elif self._epochs:
                self._look(last.next)
        return run

    def _look(self, cursor: Cursor) -> None:
        run = Run()
        self._ahead = run, self._pool.submit(self._fill, run, cursor)

    def _fill(self, run: Run, cursor: Cursor) -> None:
        held_bytes = 0
        while len(run) < AHEAD_BATCHES and held_bytes < AHEAD_BYTES and not self._enough.is_set():
            found = self._reader.read(cursor)
            if isinstance(found, NotYet):
                return
            run.append((cursor, found))
            if isinstance(found, LabelBatch):
                cursor = found.cursor_after
                held_bytes += found.nbytes
            elif self._epochs:
                cursor = found.next
            else:
                return

    def _settle(self) -> None:
        """Wait until nothing is being read, and forget what was."""
        if self._ahead is not None:
            self._enough.set()
            self._ahead[1].exception()
            self._enough.clear()
        self._ahead = None
        self._run.clear()
