"""The commit log: numbered records, each put once, never changed.

    log/00000000000000000000.json   the first record; its nonce is the log's identity
    log/00000000000000000001.json   ...
    log/head.json                   a hint how long the log is at least; advisory
    log/manifests/, log/segments/   what older records came to; see `manifest`

Why it can be trusted:

1. A record is written by `put_if_absent` at the number after the last record its writer has read. So records have no gaps, and
   of two writers at one number exactly one wins.
2. A committer begins by writing a record with a higher `term` than any before it. An older committer can't write past that
   record without meeting it: it loses that number, reads who won, and raises FencedError. It never writes again.
3. If the answer to a put is lost, the record may be there or not. The writer keeps its bytes and puts them again at the same
   number; if the object there is its own, to the byte (the nonce makes it unique), then it has won already.

Every `FILE_FACTS` entries the tail is filed: facts into a segment, what they add up to into a manifest. Opening reads the newest manifest
and the records after it, so that its time and memory grow with the tail and not with the history.

What records mean is left to `entries` and `state`; when to write is left to the committer.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import count

from pipeline.errors import LabelStoreError
from pipeline.labels.entries import LOG_VERSION, Entry, LogUnreadableError, Open, Record, record_key
from pipeline.labels.manifest import FILE_FACTS, Manifest, facts_in_memory, file_tail, is_due, newest_manifest, rebased, state_of
from pipeline.labels.state import LogState, fold
from pipeline.labels.store import ObjectMissingError, Store

HEAD_KEY = "log/head.json"
HEAD_EVERY_RECORDS = 100


class FencedError(LabelStoreError):
    """A newer committer has taken the log over; this one must stop and has written nothing since."""

    def __init__(self, own_term: int, newer_term: int, newer_holder: str) -> None:
        super().__init__(own_term, newer_term, newer_holder)
        self.own_term, self.newer_term, self.newer_holder = own_term, newer_term, newer_holder

    def __str__(self) -> str:
        return (
            f"the label log is now written by {self.newer_holder} (term {self.newer_term}); expected to be its only writer "
            f"(term {self.own_term}); end one of the two runs with `kdpipe stop DIR`"
        )


class LogGapError(LabelStoreError):
    """Records were there and are gone."""

    def __init__(self, missing_seq: int, head_seq: int) -> None:
        super().__init__(missing_seq, head_seq)
        self.missing_seq, self.head_seq = missing_seq, head_seq

    def __str__(self) -> str:
        return (
            f"{record_key(self.missing_seq)} is missing; expected {self.head_seq} records without a gap; "
            "restore it from a copy, or begin anew with `kdpipe clean DIR --labels`"
        )


class ForeignClassesError(LabelStoreError):
    """The log holds labels over other classes than the run file names."""

    def __init__(self, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return (
            f"the labels are over the classes {list(self.found)}; expected {list(self.expected)} as in the run file; "
            "use another --dir, or throw the labels away with `kdpipe clean DIR --labels`"
        )


class LogReader:
    """Follows a log. Needs no writer to be alive and never waits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.state = LogState()
        self.manifest: Manifest | None = None
        """The manifest that the older part of `state` lies in."""
        self._look_again_at = 2 * FILE_FACTS

    def refresh(self) -> LogState:
        """Read on to the tail. Raises LogUnreadableError, LogGapError."""
        if self.state.next_seq == 0:
            self._jump()
        self._read_on()
        known_seq = self._head()
        if self.state.next_seq < known_seq:  # it grew at this moment; or what comes next was filed, and went while this reader slept
            self._jump()
            self._read_on()
            if self.state.next_seq < known_seq:
                raise LogGapError(self.state.next_seq, known_seq)
        self._forget()
        return self.state

    def _read_on(self) -> None:
        records: list[Record] = []
        while (record := self._record(self.state.next_seq + len(records))) is not None:
            records.append(record)
        if records:
            self.state = fold(self.state, *records)

    def _jump(self) -> None:
        """Take the newest manifest's word for the records before it."""
        found = newest_manifest(self._store)
        if found and found.state.next_seq > self.state.next_seq:
            self.state, self.manifest = state_of(self._store, found), found

    def _forget(self) -> None:
        """Leave to segments what is in them by now: a reader that follows for months does not grow."""
        if facts_in_memory(self.state) < self._look_again_at:
            return
        found = newest_manifest(self._store)
        if found and found.state.next_seq <= self.state.next_seq and found != self.manifest:
            self.state, self.manifest = rebased(self.state, self._store, found), found
        self._look_again_at = facts_in_memory(self.state) + 2 * FILE_FACTS

    def _record(self, seq: int) -> Record | None:
        try:
            data = self._store.get(record_key(seq))
        except ObjectMissingError:
            return None
        return Record.decode(data, key=record_key(seq))

    def _head(self) -> int:
        """How many records there are at least, as the hint has it."""
        try:
            hint = json.loads(self._store.get(HEAD_KEY))
        except ObjectMissingError:
            return 0
        except ValueError as error:
            raise LogUnreadableError(HEAD_KEY, "not JSON") from error
        if not isinstance(hint, dict) or hint.get("version") != LOG_VERSION or not isinstance(hint.get("next_seq"), int):
            raise LogUnreadableError(HEAD_KEY, f"{hint!r:.80} is no hint of version {LOG_VERSION}")
        return int(hint["next_seq"])


class LogWriter:
    """The committer's end of a log. Made by `LogWriter.open`; used by one thread.

    Entries are queued and written together by `flush`. `state` has what is durable, not what is queued.
    """

    def __init__(self, store: Store, state: LogState, manifest: Manifest | None, *, term: int, nonce: str) -> None:
        self._store = store
        self._nonce = nonce
        self._manifest = manifest
        self._queue: list[Entry] = []
        self._in_flight: Record | None = None
        self._fenced: FencedError | None = None
        self.state = state
        self.term = term
        self.attempts: Iterator[int] = count()
        """Numbers for what is named by this term outside the log: none comes twice."""

    @classmethod
    def open(cls, store: Store, *, holder: str, classes: tuple[str, ...], nonce: str, now_unix_s: float) -> "LogWriter":
        """Take the log over: every other writer is fenced from here on. `nonce` must never have been used.

        Raises ForeignClassesError before anything is written.
        """
        reader = LogReader(store)
        while True:
            state = reader.refresh()
            if state.classes not in ((), classes):
                raise ForeignClassesError(state.classes, classes)
            writer = cls(store, state, reader.manifest, term=state.term + 1, nonce=nonce)
            writer.queue([Open(holder=holder, classes=classes)])
            try:
                writer.flush(now_unix_s=now_unix_s)
            except FencedError:
                continue  # another writer opened at this moment; go above its term
            return writer

    @property
    def queued(self) -> int:
        """Entries that are not known to be durable yet."""
        return len(self._queue) + (len(self._in_flight.entries) if self._in_flight else 0)

    def queue(self, entries: Iterable[Entry]) -> None:
        """Say what the next record shall hold."""
        self._queue += entries

    def flush(self, *, now_unix_s: float) -> LogState:
        """Make everything queued durable, in order. On any exception but FencedError call it again: nothing is lost or doubled."""
        if self._fenced:
            raise self._fenced
        while self.queued:
            if self._in_flight is None:
                self._in_flight = Record(term=self.term, nonce=self._nonce, at_unix_s=now_unix_s, entries=tuple(self._queue))
                self._queue.clear()
            self._put(self._in_flight)
            self.state = fold(self.state, self._in_flight)
            self._in_flight = None
            if self.state.next_seq % HEAD_EVERY_RECORDS == 0:
                self.write_head()
        return self.state

    def file_if_due(self, *, now_unix_s: float) -> bool:
        """Put a tail that has grown long into a segment. After any exception it may be called again, or never: the records are there."""
        if not is_due(self.state):
            return False
        self._manifest = file_tail(self._store, self.state, self._manifest, now_unix_s=now_unix_s)
        self.state = rebased(self.state, self._store, self._manifest)
        return True

    def write_head(self) -> None:
        """Tell readers how long the log is at least."""
        self._store.put(HEAD_KEY, json.dumps({"version": LOG_VERSION, "next_seq": self.state.next_seq}).encode())

    def _put(self, record: Record) -> None:
        key, data = record_key(self.state.next_seq), record.encode()
        if self._store.put_if_absent(key, data):
            return
        found = self._store.get(key)
        if found == data:
            return  # an earlier put of ours arrived and its answer was lost
        newer = Record.decode(found, key=key)
        holder = next((entry.holder for entry in newer.entries if isinstance(entry, Open)), "another run")
        self._fenced = FencedError(self.term, newer.term, holder)
        raise self._fenced
