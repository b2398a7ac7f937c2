"""Reading ahead: while a student learns from one batch, a thread reads, checks and decodes the next.

What is read is the same, to the byte and in the same order, as without: a batch depends on its cursor and nothing else. One batch is held
ahead. An error of reading ahead is raised when its batch is asked for; that the tail was not there yet is looked at again.
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

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reads ahead")
        self._ahead: tuple[Cursor, Future[Found]] | None = None

    def start(self) -> Cursor:
        self._settle()
        return self._reader.start()

    def read(self, cursor: Cursor) -> Found:
        """The batch at `cursor`, read already or read now; raises what the reader raises."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == cursor:
            found = ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].exception()  # it has ended, whatever it found
            found = self._reader.read(cursor)
        if isinstance(found, NotYet):
            found = self._reader.read(cursor)
        if isinstance(found, LabelBatch):
            self._ahead = found.cursor_after, self._pool.submit(self._reader.read, found.cursor_after)
        return found

    def close(self) -> None:
        """End the thread. What was read ahead is forgotten."""
        self._settle()
        self._pool.shutdown()

    def _settle(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[1].exception()
