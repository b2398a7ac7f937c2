"""Deleting what no reader can need, by a committer of a term of its own. Asks no teacher.

Opening the log fences whoever wrote it before, so that none of the attempts found here can be committed any more. What the policy lets
go of is a fact in the log before a byte of it is deleted; a crash at any instruction leaves some of it for the next time.
"""

from collections.abc import Iterable

from pipeline.labels.entries import Entry, Record, Sweep
from pipeline.labels.garbage import Garbage, garbage
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.retention import Retention, retired
from pipeline.labels.state import LogState, fold
from pipeline.labels.store import Store


def would_collect(store: Store, policy: Retention, *, now_unix_s: float) -> Garbage:
    """What `collect` would delete now. Writes nothing."""
    state = LogReader(store).refresh()
    return garbage(store, _after(state, retired(state, policy, now_unix_s=now_unix_s), now_unix_s), now_unix_s=now_unix_s)


def collect(store: Store, policy: Retention, *, holder: str, nonce: str, now_unix_s: float) -> Garbage:
    """Let go of what the policy does not keep, delete that and all other garbage, and say what it was.

    To be called while no student trains and nobody labels. Raises FencedError if somebody takes the log over meanwhile.
    """
    classes = LogReader(store).refresh().classes
    writer = LogWriter.open(store, holder=holder, classes=classes, nonce=nonce, now_unix_s=now_unix_s)
    writer.queue(retired(writer.state, policy, now_unix_s=now_unix_s))
    writer.flush(now_unix_s=now_unix_s)
    found = garbage(store, writer.state, now_unix_s=now_unix_s)
    found.delete_from(store)
    writer.queue([Sweep(term=writer.term, stop_commit=writer.state.dropped_commits)])
    writer.flush(now_unix_s=now_unix_s)
    writer.write_head()
    return found


def _after(state: LogState, entries: Iterable[Entry], now_unix_s: float) -> LogState:
    """The log as it would be with these entries."""
    return fold(state, Record(term=state.term, nonce="", at_unix_s=now_unix_s, entries=tuple(entries)))
