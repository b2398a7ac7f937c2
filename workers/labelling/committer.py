"""The one writer of a generation's facts: commits what is done, seals windows, ends the generation.

It runs in the driver's thread. Entries are written in groups, at most one log record every 200 ms; a commit is queued only after
its object was seen with its size. What the log does not have yet is lost in a crash and labelled again: never half, never twice.
Times are arguments: `now_s` from a clock that only goes forward, `now_unix_s` for people.
"""

import logging
import re
from collections.abc import Sequence

from pipeline.labels.entries import Commit, End, Quarantine, QuarantinedRow, Repair, Seal, ShardRef, Sweep, Tombstone
from pipeline.labels.known import index_commits
from pipeline.labels.log import LogWriter
from pipeline.labels.retention import Retention, retired
from pipeline.labels.sealing import OpenWindow, is_due
from pipeline.labels.shard import SHARDS
from pipeline.labels.state import LogState
from pipeline.labels.store import Store, StoreFullError

GROUP_COMMIT_S = 0.2
INDEX_COMMITS, INDEX_ROWS = 256, 1 << 16
"""So many new ones, of either, are indexed while labelling goes on."""
_KEY = re.compile(r"shards/(?P<term>\d+)/(?P<start>\d+)-\d+-\w+\.arrow")

log = logging.getLogger(__name__)


def shard_key(start: int, stop: int, *, term: int, attempt: int) -> str:
    """Key of one attempt, by its number in `term`, at the rows [start, stop)."""
    return f"{_of_term(term)}{start:012d}-{stop:012d}-{attempt}.arrow"


def first_row(key: str) -> int | None:
    """The first row that the attempt was at; None if the key is none of ours."""
    found = _KEY.fullmatch(key)
    return int(found["start"]) if found else None


def _of_term(term: int) -> str:
    return f"{SHARDS}{term:08d}/"


class Committer:
    """Turns done work into log entries."""

    def __init__(self, store: Store, writer: LogWriter, *, generation: int, window_rows: int, now_s: float, reuse: bool = True) -> None:
        self._store, self._writer, self._reuse = store, writer, reuse
        self._generation, self._window_rows = generation, window_rows
        state = writer.state
        self._commits, self._windows, self._sealed = len(state.commits), len(state.windows), state.sealed_commits
        self._first_window = state.first_window(generation)
        self._open_rows = sum(commit.shard.rows for commit in state.commits[state.sealed_commits :])
        self._open_since_s = now_s
        self._last_flush_s = -GROUP_COMMIT_S
        self._rows_before = state.rows_at_end
        self._indexed_commits, self._indexed_rows = self._commits, state.rows_labelled
        self.first_commit_unix_s: float | None = None
        self.last_commit_unix_s: float | None = None

    @property
    def state(self) -> LogState:
        """What is durable."""
        return self._writer.state

    @property
    def pending(self) -> int:
        """Entries that are not known to be durable yet."""
        return self._writer.queued

    @property
    def term(self) -> int:
        return self._writer.term

    @property
    def generation_rows(self) -> int:
        """Durable labelled rows of this generation: as far as a live pass could read."""
        return self.state.rows_labelled - self._rows_before

    def new_key(self, start: int, stop: int) -> str:
        """Key for one more attempt at the rows [start, stop): nobody had it before, in whichever run of this term or another."""
        return shard_key(start, stop, term=self.term, attempt=next(self._writer.attempts))

    def is_stored(self, shard: ShardRef) -> bool:
        """Whether the object is there in its size: what a commit may name."""
        return self._store.size(shard.key) == shard.bytes

    def commit(
        self,
        start: int,
        stop: int,
        shard: ShardRef,
        bad: Sequence[QuarantinedRow],
        *,
        teacher: str,
        teacher_s: float,
        now_s: float,
        reused: int = 0,
    ) -> None:
        """Queue a commit."""
        if self._commits == self._sealed:
            self._open_since_s = now_s
        seconds = round(teacher_s, 6)
        self._writer.queue(
            [Commit(start=start, stop=stop, shard=shard, quarantined=tuple(bad), teacher=teacher, teacher_s=seconds, reused=reused)]
        )
        self._commits += 1
        self._open_rows += shard.rows
        self._seal_if_due(now_s, starved=False, lead_used_up=False)

    def quarantine(self, bad: Sequence[Quarantine]) -> None:
        """Queue rows that get no label."""
        self._writer.queue(bad)

    def repair(self, shard: str, by: ShardRef, bad: Sequence[QuarantinedRow], *, teacher: str) -> None:
        """Queue that `by` holds the rows of the committed shard from now on; rows in `bad` could not be labelled again."""
        self._writer.queue([Repair(shard=shard, by=by, teacher=teacher)])
        self._writer.queue(_tombstones(bad))

    def tick(self, *, now_s: float, now_unix_s: float, starved: bool, lead_used_up: bool) -> None:
        """Seal if it is time, and write what is queued, if the last record is old enough."""
        self._seal_if_due(now_s, starved=starved, lead_used_up=lead_used_up)
        if self._writer.queued and now_s - self._last_flush_s >= GROUP_COMMIT_S:
            self.flush(now_s=now_s, now_unix_s=now_unix_s)

    def flush(self, *, now_s: float, now_unix_s: float) -> None:
        """Write what is queued now. Raises FencedError; after any other exception it may be called again."""
        known = len(self.state.commits)
        self._last_flush_s = now_s
        self._writer.flush(now_unix_s=now_unix_s)
        if len(self.state.commits) > known:
            self.last_commit_unix_s = now_unix_s
            self.first_commit_unix_s = self.first_commit_unix_s or now_unix_s
        self._writer.file_if_due(now_unix_s=now_unix_s)
        new_commits, new_rows = len(self.state.commits) - self._indexed_commits, self.state.rows_labelled - self._indexed_rows
        if new_commits >= INDEX_COMMITS or new_rows >= INDEX_ROWS:
            self.index_known()

    def index_known(self) -> None:
        """Let whoever labels find what is committed. Nothing depends on it: what can't be written now is indexed another time."""
        if not self._reuse:
            return
        self._indexed_commits, self._indexed_rows = len(self.state.commits), self.state.rows_labelled
        try:
            index_commits(self._store, self.state, term=self.term)
        except (StoreFullError, OSError) as error:
            log.warning("known labels can't be indexed; teachers are asked", extra={"reason": f"{type(error).__name__}: {error}"})

    def end(self, *, now_s: float, now_unix_s: float) -> None:
        """Seal what is open and end the generation, once. Everything planned must be done."""
        if self._generation > max(self.state.ends, default=-1):
            self._seal_if_due(now_s, starved=False, lead_used_up=False, ending=True)
            self._writer.queue([End(generation=self._generation)])
        self.flush(now_s=now_s, now_unix_s=now_unix_s)
        self._writer.write_head()

    def retire(self, policy: Retention, *, now_unix_s: float) -> None:
        """Write what the retention policy lets go of; `sweep` deletes it. To be called before a generation's first commit."""
        self._writer.queue(retired(self.state, policy, now_unix_s=now_unix_s))
        self._writer.flush(now_unix_s=now_unix_s)

    def sweep(self, *, now_unix_s: float) -> int:
        """Delete attempts of older terms that no commit names, and shards that were dropped; how many.

        No such attempt will ever be committed: this term fenced those who would. Looks at what came since the last sweep only.
        """
        state, gone = self.state, self._orphans()
        for commit in state.commits[state.swept_commits : state.dropped_commits]:
            gone += {commit.shard.key, state.shard_of(commit).key}
        self._store.delete(*gone)
        if gone or state.swept_term < self.term:
            self._writer.queue([Sweep(term=self.term, stop_commit=state.dropped_commits)])
            self._writer.flush(now_unix_s=now_unix_s)
        return len(gone)

    def _orphans(self) -> list[str]:
        state = self.state
        since = min(state.commits_at_term.values(), default=0)
        named = {commit.shard.key for commit in state.commits.since(since)} | {repair.key for repair in state.repairs.values()}
        terms = range(state.swept_term, self.term)
        return [key for term in terms for key in self._store.list(_of_term(term)) if key not in named]

    def drop(self, shard: ShardRef) -> None:
        """Delete an attempt of this term that was fenced and will never be committed."""
        self._store.delete(shard.key)

    def _seal_if_due(self, now_s: float, *, starved: bool, lead_used_up: bool, ending: bool = False) -> None:
        window = OpenWindow(shards=self._commits - self._sealed, rows=self._open_rows, age_s=now_s - self._open_since_s)
        if is_due(
            window,
            windows_before=self._windows - self._first_window,
            window_rows=self._window_rows,
            starved=starved,
            lead_used_up=lead_used_up,
            ending=ending,
        ):
            self._writer.queue([Seal(window=self._windows, first_commit=self._sealed, stop_commit=self._commits, rows=window.rows)])
            self._windows, self._sealed, self._open_rows = self._windows + 1, self._commits, 0


def _tombstones(bad: Sequence[QuarantinedRow]) -> list[Tombstone]:
    """One entry for neighbours with the same reason."""
    runs: list[Tombstone] = []
    for row in bad:
        if runs and runs[-1].stop == row.row and runs[-1].reason == row.reason:
            runs[-1] = Tombstone(start=runs[-1].start, stop=row.row + 1, reason=row.reason)
        else:
            runs.append(Tombstone(start=row.row, stop=row.row + 1, reason=row.reason))
    return runs
