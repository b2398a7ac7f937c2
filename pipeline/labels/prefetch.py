"""Reading ahead: while a student learns from one batch, a thread reads, checks and decodes the next.

What is read is the same, to the byte and in the same order, as without: a batch depends on its cursor and nothing else. One batch is held
ahead, past the end of an epoch too: the first of the next one is mostly the first of a window, which takes longest. An error of reading
ahead is raised when its batch is asked for; that the tail was not there yet is looked at again.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from pipeline.labels.order import Cursor
from pipeline.labels.reader import EndOfEpoch, LabelBatch, NotYet

Found = LabelBatch | NotYet | EndOfEpoch


class Reader(Protocol):
    """Where labels come from: `LabelReader`, or what stands in for one."""

    def start(self) -> Cursor: ...

    def read(self, cursor: Cursor) -> Found: ...


class ReadingAhead:
    """A `Reader` over another, which only one thread uses at a time: this one's caller, or the one that reads ahead."""

    def __init__(self, reader: Reader, *, epochs: bool = True) -> None:
        """Without `epochs`, nothing is read past the end of an epoch until it is asked for."""
        self._reader, self._epochs = reader, epochs
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reads ahead")
        self._ahead: tuple[Cursor, Future[Found]] | None = None
        self._beyond: tuple[Cursor, Future[Found]] | None = None
        """The first batch of the next epoch, once the one ahead has been found to be the end of one."""

    def start(self) -> Cursor:
        self._settle()
        return self._reader.start()

    def read(self, cursor: Cursor) -> Found:
        """The batch at `cursor`, read already or read now; raises what the reader raises."""
        if self._ahead is None or self._ahead[0] != cursor:
            self._settle()
            found = self._reader.read(cursor)
        else:
            ahead, self._ahead = self._ahead[1], None
            found = ahead.result()
            self._ahead, self._beyond = self._beyond, None
        if isinstance(found, NotYet):
            found = self._reader.read(cursor)
        if isinstance(found, LabelBatch):
            self._ahead = found.cursor_after, self._pool.submit(self._look, found.cursor_after)
        return found

    def close(self) -> None:
        """End the thread. What was read ahead is forgotten."""
        self._settle()
        self._pool.shutdown()

    def _look(self, cursor: Cursor) -> Found:
        found = self._reader.read(cursor)
        if self._epochs and isinstance(found, EndOfEpoch):
            self._beyond = found.next, self._pool.submit(self._reader.read, found.next)
        return found

    def _settle(self) -> None:
        """Wait until nothing is being read, and forget what was."""
        if self._ahead is not None:
            self._ahead[1].exception()
        if self._beyond is not None:  # which the one ahead made
            self._beyond[1].exception()
        self._ahead = self._beyond = None
