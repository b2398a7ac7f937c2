"""What the log's records add up to: a pure, deterministic fold.

Every reader of the same records has the same state, so order, work left and windows are facts, not opinions. Here the log's
safety is enforced a last time, whoever wrote it: of commits that share a row the first wins and the others are void; a record
of an older term than its predecessor, a window that does not continue the last one, an `end` that is not the next are refused.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipeline.labels.entries import (
    Commit,
    Drop,
    End,
    Entry,
    Floor,
    LogUnreadableError,
    Open,
    Plan,
    Quarantine,
    Record,
    Reinstate,
    Repair,
    Retry,
    Seal,
    ShardRef,
    Supersede,
    Sweep,
    Tombstone,
)
from pipeline.labels.history import History
from pipeline.labels.intervals import Intervals, Run


class CommitIndex(Protocol):
    """Finds commits that are not in memory."""

    def commit_of(self, key: str, *, start: int) -> Commit | None: ...


DONE_AT_ONCE = 1024
"""Claimed runs that are kept in a list before they are merged into the set of rows that are done."""


@dataclass(frozen=True, kw_only=True)
class LogState:
    """An immutable picture of the log up to, but without, record `next_seq`."""

    next_seq: int = 0
    log: str = ""
    """Identity of the log: the nonce of its first record."""
    term: int = 0
    holder: str = ""
    classes: tuple[str, ...] = ()
    plans: History[Plan] = field(default_factory=History)
    commits: History[Commit] = field(default_factory=History)
    windows: History[Seal] = field(default_factory=History)
    quarantined: History[Quarantine] = field(default_factory=History)
    """All that ever were, with what was retried since; see `quarantine.in_force`."""
    repairs: Mapping[str, ShardRef] = field(default_factory=dict)
    """Key of a committed shard -> the shard that took its place."""
    ends: Mapping[int, int] = field(default_factory=dict)
    """Generation -> how many windows the log had when it ended."""
    rows_at_end: int = 0
    """Labelled rows when the last generation ended."""
    floors: Mapping[int, int] = field(default_factory=dict)
    """Generation that had ended last (-1: none) -> the first window that younger generations replay."""
    dropped_windows: int = 0
    """The bytes of the windows before this one are gone, or about to go."""
    dropped_commits: int = 0
    """So are those of the commits before this one."""
    swept_term: int = 1
    """What was put in older terms and never committed is gone."""
    swept_commits: int = 0
    """Dropped commits whose bytes are known to be gone."""
    commits_at_term: Mapping[int, int] = field(default_factory=dict)
    """Term that was not swept yet -> how many commits the log had when it began."""
    teachers: frozenset[str] = frozenset()
    done: Intervals = field(default_factory=Intervals)
    """Rows that need no label any more: committed or quarantined."""
    set_aside: Intervals = field(default_factory=Intervals)
    """Rows that are quarantined now."""
    tombstoned: Intervals = field(default_factory=Intervals)
    superseded: tuple[Supersede | Reinstate, ...] = ()
    """What files that were replaced, or came back, did to the weights of labelled rows, in the order of the log."""
    rows_labelled: int = 0
    rows_reused: int = 0
    """Of those, the ones that the teacher was not asked about."""
    commit_times: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Generation that had ended last (-1: none) -> when the first and the last commit after it were recorded, Unix seconds."""
    void_commits: int = 0
    """Commits that shared a row with an earlier one. Never so unless a committer is broken."""
    segments: CommitIndex | None = field(default=None, compare=False, repr=False)
    """Where the older facts of the histories lie."""

    @property
    def rows_planned(self) -> int:
        return self.plans[-1].first + self.plans[-1].rows if self.plans else 0

    @property
    def rows_left(self) -> int:
        return self.rows_planned - self.done.rows

    @property
    def rows_quarantined(self) -> int:
        return self.set_aside.rows

    @property
    def sealed_commits(self) -> int:
        """Commits that are in a window."""
        return self.windows[-1].stop_commit if self.windows else 0

    @property
    def rows_kept(self) -> int:
        """Labelled rows whose bytes were not dropped."""
        return self.rows_labelled - sum(seal.rows for seal in self.windows[: self.dropped_windows])

    @property
    def newest_generation(self) -> int:
        """The one that has labels and has not ended, else the one that ended last."""
        ended = max(self.ends, default=0)
        return ended + 1 if self.rows_labelled > self.rows_at_end or not ended else ended

    def first_window(self, generation: int) -> int:
        """Number of the first window of a generation: those before it belong to older ones."""
        return max((windows for older, windows in self.ends.items() if older < generation), default=0)

    def replay_floor(self, generation: int) -> int:
        """Number of the first window that a generation replays."""
        return max((window for ended, window in self.floors.items() if ended < generation), default=0)

    def weightless(self, generation: int | None = None) -> Intervals:
        """Rows that weigh nothing in a generation, or in one that is yet to come: forgotten ones, and those whose file was replaced."""
        return self.superseded_rows(generation).union(self.tombstoned)

    def superseded_rows(self, generation: int | None = None) -> Intervals:
        """Rows whose file was replaced, as a generation sees it, or one that is yet to come.

        An entry counts for its generation and younger ones, and is written before the rows that it is about can be read in that one:
        so every read of one generation sees the same weights, but for what is forgotten.
        """
        rows = Intervals()
        for entry in self.superseded:
            if generation is None or entry.generation <= generation:
                span = Intervals([(entry.start, entry.stop)])
                rows = rows.union(span) if isinstance(entry, Supersede) else rows.minus(span)
        return rows

    def kept_commits(self) -> Iterator[Commit]:
        """The commits whose bytes were not dropped, in log order."""
        return self.commits.since(self.dropped_commits)

    def commits_of(self, generation: int) -> list[Commit]:
        """Commits of an ended generation, or of the one that is open."""
        if generation not in self.ends and generation < max(self.ends, default=-1):
            return []
        before = self.first_window(generation)
        start = self.windows[before - 1].stop_commit if before else 0
        windows = self.ends.get(generation)
        if windows is None:
            return self.commits[start:]
        return self.commits[start : self.windows[windows - 1].stop_commit if windows else 0]

    def commit_of(self, key: str, *, start: int) -> Commit | None:
        """The commit of the shard with this key, whose rows begin at `start`."""
        recent = self.commits.tail(len(self.commits) - self.commits.in_memory)
        found = next((commit for commit in reversed(recent) if commit.shard.key == key), None)
        return found or (self.segments.commit_of(key, start=start) if self.segments else None)

    def shard_of(self, commit: Commit) -> ShardRef:
        """The shard that holds the commit's rows now."""
        return self.repairs.get(commit.shard.key, commit.shard)


def fold(state: LogState, *records: Record) -> LogState:
    """The state after `records`. Raises LogUnreadableError if they contradict it."""
    folding = _Folding(state)
    for record in records:
        folding.apply(record)
    return folding.state()


class _Folding:
    """A state being folded; mutable only here, so that a million records cost a million steps and not a million copies."""

    def __init__(self, state: LogState) -> None:
        self._base = state
        self._seq, self._log, self._term, self._holder, self._classes = state.next_seq, state.log, state.term, state.holder, state.classes
        self._plans: list[Plan] = []
        self._commits: list[Commit] = []
        self._windows: list[Seal] = []
        self._quarantined: list[Quarantine] = []
        self._repairs, self._ends, self._teachers = dict(state.repairs), dict(state.ends), set(state.teachers)
        self._done: list[Run] = []
        """Sorted, disjoint, and not in the base's yet."""
        self._set_aside: list[Run] = []
        """Not in the base's yet."""
        self._tombstoned: list[Run] = []
        self._superseded = list(state.superseded)
        self._commit_times = dict(state.commit_times)
        self._void = 0
        self._rows_at_end, self._floors = state.rows_at_end, dict(state.floors)
        self._dropped, self._swept = (state.dropped_windows, state.dropped_commits), (state.swept_term, state.swept_commits)
        self._commits_at_term = dict(state.commits_at_term)

    def apply(self, record: Record) -> None:
        opens = bool(record.entries) and isinstance(record.entries[0], Open)
        if record.term < self._term or (record.term > self._term) != opens:
            raise self._contradiction(f"term {record.term} after term {self._term}" + ("" if opens else ", without taking over"))
        self._log = self._log or record.nonce
        self._term = record.term
        for entry in record.entries:
            self._apply_entry(entry, record.at_unix_s)
        self._seq += 1

    def _apply_entry(self, entry: Entry, at_unix_s: float) -> None:
        match entry:
            case Open():
                if self._classes and entry.classes != self._classes:
                    raise self._contradiction(f"classes {list(entry.classes)} after {list(self._classes)}")
                self._holder, self._classes = entry.holder, entry.classes
                self._commits_at_term[self._term] = len(self._base.commits) + len(self._commits)
            case Plan():
                last = self._plans[-1] if self._plans else (self._base.plans[-1] if self._base.plans else None)
                if entry.first != (last.first + last.rows if last else 0):
                    raise self._contradiction(f"part {entry.name!r} is planned at row {entry.first}, which is not the next")
                self._plans.append(entry)
            case Commit():
                self._commit(entry, at_unix_s)
            case Quarantine():
                if self._claim(entry.start, entry.stop):
                    self._quarantine([entry])
            case Retry():
                self._retry(entry)
            case Seal():
                self._seal(entry)
            case Repair():
                self._repairs[entry.shard] = entry.by
                self._teachers.add(entry.teacher)
            case Tombstone():
                self._tombstoned.append((entry.start, entry.stop))
            case Supersede() | Reinstate():
                self._superseded.append(entry)
            case Floor():
                self._floors[max(self._ends, default=-1)] = entry.window
            case Drop():
                self._drop(entry)
            case Sweep():
                self._swept = entry.term, entry.stop_commit
                self._commits_at_term = {term: known for term, known in self._commits_at_term.items() if term >= entry.term}
            case End():
                self._end(entry)

    def _commit(self, commit: Commit, at_unix_s: float) -> None:
        if not self._claim(commit.start, commit.stop):
            self._void += 1
            return
        self._commits.append(commit)
        self._time(at_unix_s)
        self._teachers.add(commit.teacher)
        self._quarantine([Quarantine(start=bad.row, stop=bad.row + 1, reason=bad.reason) for bad in commit.quarantined])

    def _claim(self, start: int, stop: int) -> bool:
        """Take the rows if they are free: exactly once, by construction."""
        place = bisect_left(self._done, (start, start))
        near = self._done[max(place - 1, 0) : place + 1]
        if self._base.done.overlaps(start, stop) or any(start < taken[1] and taken[0] < stop for taken in near):
            return False
        insort(self._done, (start, stop))
        if len(self._done) >= DONE_AT_ONCE:
            self._base = replace(self._base, done=self._base.done.union(self._done))
            self._done.clear()
        return True

    def _quarantine(self, bad: list[Quarantine]) -> None:
        self._quarantined += bad
        self._set_aside += [(rows.start, rows.stop) for rows in bad]

    def _retry(self, retry: Retry) -> None:
        """Free what is quarantined there, never a row with a label."""
        done, set_aside = self._base.done.union(self._done), self._base.set_aside.union(self._set_aside)
        freed = set_aside.within(retry.start, retry.stop)
        self._base = replace(self._base, done=done.minus(freed), set_aside=set_aside.minus(freed))
        self._done.clear()
        self._set_aside.clear()

    def _time(self, at_unix_s: float) -> None:
        ended = max(self._ends, default=-1)
        first, last = self._commit_times.get(ended, (at_unix_s, at_unix_s))
        self._commit_times[ended] = min(first, at_unix_s), max(last, at_unix_s)

    def _seal(self, seal: Seal) -> None:
        last = self._windows[-1] if self._windows else (self._base.windows[-1] if self._base.windows else None)
        number, first = (last.window + 1, last.stop_commit) if last else (0, 0)
        known = len(self._base.commits) + len(self._commits)
        if (seal.window, seal.first_commit) != (number, first) or not first < seal.stop_commit <= known:
            raise self._contradiction(
                f"window {seal.window} holds commits {seal.first_commit} to {seal.stop_commit}, "
                f"not window {number} from commit {first} of {known}"
            )
        self._windows.append(seal)

    def _end(self, end: End) -> None:
        if end.generation <= max(self._ends, default=-1):
            raise self._contradiction(f"generation {end.generation} ends after generation {max(self._ends)}")
        self._ends[end.generation] = len(self._base.windows) + len(self._windows)
        self._rows_at_end = self._rows_labelled()

    def _drop(self, drop: Drop) -> None:
        floor = max(self._floors.values(), default=0)
        if not self._dropped[0] <= drop.stop_window <= floor:
            raise self._contradiction(f"windows up to {drop.stop_window} are dropped; the floor is {floor}")
        self._dropped = drop.stop_window, drop.stop_commit

    def _rows_labelled(self) -> int:
        return self._base.rows_labelled + sum(commit.shard.rows for commit in self._commits)

    def _contradiction(self, problem: str) -> LogUnreadableError:
        return LogUnreadableError(f"log/{self._seq:020d}.json", problem)

    def state(self) -> LogState:
        base = self._base
        return LogState(
            next_seq=self._seq,
            log=self._log,
            term=self._term,
            holder=self._holder,
            classes=self._classes,
            plans=base.plans.extended(self._plans),
            commits=base.commits.extended(self._commits),
            windows=base.windows.extended(self._windows),
            quarantined=base.quarantined.extended(self._quarantined),
            repairs=self._repairs,
            ends=self._ends,
            rows_at_end=self._rows_at_end,
            floors=self._floors,
            dropped_windows=self._dropped[0],
            dropped_commits=self._dropped[1],
            swept_term=self._swept[0],
            swept_commits=self._swept[1],
            commits_at_term=self._commits_at_term,
            teachers=frozenset(self._teachers),
            done=base.done.union(self._done),
            set_aside=base.set_aside.union(self._set_aside),
            superseded=tuple(self._superseded),
            tombstoned=base.tombstoned.union(self._tombstoned),
            rows_labelled=self._rows_labelled(),
            rows_reused=base.rows_reused + sum(commit.reused for commit in self._commits),
            commit_times=self._commit_times,
            void_commits=base.void_commits + self._void,
            segments=base.segments,
        )
