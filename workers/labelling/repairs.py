"""Committed shards that went bad and wait to be labelled again. No clock, no process.

A repair has the same rows at the same places as the shard it replaces, so no reader's position moves. It is given to a worker before
any new unit, since a trainer may be waiting for it. A row that can't be labelled again is forgotten, or, where that is not wanted, its
shard stays as it is and is named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.labels.entries import Commit, QuarantinedRow
from pipeline.labels.rowspace import plan_of
from pipeline.labels.shard import ShardCorruptError, read_shard
from pipeline.labels.state import LogState
from pipeline.labels.store import Store
from workers.labelling.committer import first_row
from workers.labelling.faults import RepairFailedError
from workers.labelling.messages import Assignment

TRIES = 3


@dataclass
class _Job:
    commit: Commit
    tries: int = 0
    leased: str | None = None
    """Worker."""


@dataclass
class Repairs:
    """Jobs by lease number, which is negative, so that it is never one of the ledger's."""

    forget: bool = True
    """A row that can't be labelled again loses its weight; without this its shard is left alone and `refused`."""
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _known: set[tuple[str, str]] = field(default_factory=set)
    """(committed shard, shard it had then): looked at already."""
    done: list[str] = field(default_factory=list)
    rows_forgotten: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """Committed shard -> why some of its rows can't be labelled again."""

    @property
    def waiting(self) -> int:
        return sum(job.leased is None for job in self._jobs.values())

    @property
    def leased(self) -> int:
        return len(self._jobs) - self.waiting

    def look(self, store: Store, state: LogState, reported: frozenset[str]) -> None:
        """Take up those of the reported shards that are bad indeed; others were repaired in the meantime, or are none of ours."""
        if not reported:
            return
        for key in sorted(reported):
            row = first_row(key)
            commit = None if row is None else state.commit_of(key, start=row)
            if commit is None or (key, state.shard_of(commit).key) in self._known:
                continue
            self._known.add((key, state.shard_of(commit).key))
            try:
                read_shard(store, state.shard_of(commit))
            except ShardCorruptError:
                self._jobs[-1 - len(self._known)] = _Job(commit)

    def lease(self, worker: str, state: LogState, store: Store, new_key: Callable[[int, int], str]) -> Assignment | None:
        """The next repair for the worker; its shard gets the key that `new_key` gives for its rows."""
        number, job = next(((number, job) for number, job in self._jobs.items() if job.leased is None), (0, None))
        if job is None:
            return None
        job.leased, job.tries = worker, job.tries + 1
        commit = job.commit
        return Assignment(
            lease=number,
            key=new_key(commit.start, commit.stop),
            plan=plan_of(state.plans, commit.start),
            start=commit.start,
            stop=commit.stop,
            without=tuple(bad.row for bad in commit.quarantined),
            keep_every_row=True,
            width=_width(store, state),
        )

    def settle(self, number: int, bad: Sequence[QuarantinedRow]) -> Commit | None:
        """The repair is done, but for the rows in `bad`; its commit, or None if it was fenced or must not forget them."""
        job = self._jobs.get(number)
        if job is None or job.leased is None:
            return None
        del self._jobs[number]
        if bad and not self.forget:
            self.refused[job.commit.shard.key] = f"{len(bad)} of its {job.commit.shard.rows} rows: {bad[0].reason}"
            return None
        self.done.append(job.commit.shard.key)
        self.rows_forgotten += len(bad)
        return job.commit

    def fail(self, number: int, reason: str) -> None:
        """Try again. Raises RepairFailedError after some tries."""
        job = self._jobs.get(number)
        if job is None or job.leased is None:
            return
        job.leased = None
        if job.tries >= TRIES:
            raise RepairFailedError(job.commit.shard.key, job.tries, reason)

    def put_back(self, number: int) -> None:
        """Try again, through no fault of the repair."""
        job = self._jobs.get(number)
        if job is not None and job.leased is not None:
            job.leased, job.tries = None, job.tries - 1

    def lose(self, worker: str, reason: str) -> None:
        """The worker died."""
        for number in [number for number, job in self._jobs.items() if job.leased == worker]:
            self.fail(number, reason)


def _width(store: Store, state: LogState) -> int:
    """Length of the samples' lists of numbers, from any shard that can be read; 1 where there is none to be had."""
    for commit in state.kept_commits():
        try:
            inputs = read_shard(store, state.shard_of(commit)).table["input"]
        except ShardCorruptError:
            continue
        if pa.types.is_string(inputs.type):
            return 1
        return int(np.median([len(row) for row in inputs[:32]]))
    return 1
