"""Looking at stored labels from outside: what is there, and what is bad. Reads only; needs no run to be alive."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.labels.entries import Commit
from pipeline.labels.log import LogReader
from pipeline.labels.quarantine import kinds
from pipeline.labels.shard import SHARDS, ShardCorruptError, ShardUnknownError, read_shard
from pipeline.labels.state import LogState
from pipeline.labels.store import Store


@dataclass(frozen=True, kw_only=True)
class BadShard:
    """A committed shard that can't be used as it is."""

    shard: str
    """Key in the commit: what a repair is asked for by."""
    object: str
    """Key of what lies there now: another one where it was repaired, or rows of it forgotten, since."""
    rows: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Shards, rows and windows are those that were not dropped."""

    shards: int
    rows: int
    windows: int
    rows_left: int
    """Planned and neither labelled nor quarantined: work, no fault."""
    bad: tuple[BadShard, ...]
    problems: tuple[str, ...]
    """Of the log itself."""
    orphans: int
    """Objects beside the shards that the log names: attempts that were lost, or are not committed yet; harmless."""
    orphan_bytes: int

    @property
    def sound(self) -> bool:
        return not self.bad and not self.problems


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    name: str
    identity: str
    rows: int
    rows_done: int


@dataclass(frozen=True, kw_only=True)
class LabelsSummary:
    log: str
    holder: str
    term: int
    records: int
    classes: tuple[str, ...]
    teachers: tuple[str, ...]
    rows_planned: int
    rows_committed: int
    rows_reused: int
    """Of those, the ones with a label that was there: the teacher was not asked."""
    rows_quarantined: int
    rows_tombstoned: int
    shards: int
    bytes: int
    teacher_s: float
    repairs: int
    windows: int
    generations: tuple[tuple[int, int], ...]
    """(generation, its windows), of the ended ones."""
    parts: tuple[PartSummary, ...]
    quarantine_reasons: tuple[tuple[str, int], ...]
    """(reason, rows), most first."""


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """What the labels of one generation cost, by the log: over all runs that made them, killed ones too."""

    rows: int
    """Labelled."""
    rows_first: int
    """Of those, the ones of the first commit: how long they took, no commit before them says."""
    rows_reused: int
    """Of those, the ones the teacher was not asked about."""
    teacher_s: float
    """Summed over teachers; without repairs, and without what was lost before it was committed."""
    first_commit_unix_s: float | None
    last_commit_unix_s: float | None


def verify(store: Store, *, progress: Callable[[int, int], None] = lambda done, rows: None) -> Verification:
    """Check the log against itself and every committed shard, byte by byte, against the log. `progress` hears (rows done, rows).

    Raises LabelStoreError only if the log can't be read: a record is missing, or contradicts those before it.
    """
    state = LogReader(store).refresh()
    bad, rows, kept = [], 0, state.rows_kept
    for commit in state.kept_commits():
        if found := _problem(store, state, commit):
            bad.append(found)
        rows += commit.shard.rows
        progress(rows, kept)
    orphans = orphaned(store, state)
    return Verification(
        shards=len(state.commits) - state.dropped_commits,
        rows=kept,
        windows=len(state.windows) - state.dropped_windows,
        rows_left=state.rows_left,
        bad=tuple(bad),
        problems=tuple(_contradictions(state)),
        orphans=len(orphans),
        orphan_bytes=sum(orphans.values()),
    )


def orphaned(store: Store, state: LogState) -> dict[str, int]:
    """Key -> bytes of each object beside the shards that no entry of the log names, as the log was at `state`."""
    named = {commit.shard.key for commit in state.kept_commits()} | {repair.key for repair in state.repairs.values()}
    sizes = {key: store.size(key) for key in store.list(SHARDS) if key not in named}
    return {key: size for key, size in sizes.items() if size is not None}


def summarise(store: Store) -> LabelsSummary:
    """What the log says is there; looks at no shard."""
    state = LogReader(store).refresh()
    ends, before = [], 0
    for generation, windows in sorted(state.ends.items()):
        ends.append((generation, windows - before))
        before = windows
    return LabelsSummary(
        log=state.log,
        holder=state.holder,
        term=state.term,
        records=state.next_seq,
        classes=state.classes,
        teachers=tuple(sorted(state.teachers)),
        rows_planned=state.rows_planned,
        rows_committed=state.rows_labelled,
        rows_reused=state.rows_reused,
        rows_quarantined=state.rows_quarantined,
        rows_tombstoned=state.tombstoned.rows,
        shards=len(state.commits) - state.dropped_commits,
        bytes=sum(state.shard_of(commit).bytes for commit in state.kept_commits()),
        teacher_s=sum(commit.teacher_s for commit in state.commits),
        repairs=len(state.repairs),
        windows=len(state.windows),
        generations=tuple(ends),
        parts=tuple(
            PartSummary(
                name=plan.name,
                identity=plan.part,
                rows=plan.rows,
                rows_done=plan.rows - sum(stop - start for start, stop in state.done.missing_from(plan.first, plan.first + plan.rows)),
            )
            for plan in state.plans
        ),
        quarantine_reasons=tuple(kinds(state)),
    )


def teacher_cost(state: LogState, generation: int) -> TeacherCost:
    """What one generation cost, ended or open; nothing for one that never was."""
    commits = state.commits_of(generation)
    ended_before = max((older for older in state.ends if older < generation), default=-1)
    first, last = state.commit_times[ended_before] if commits else (None, None)
    return TeacherCost(
        rows=sum(commit.shard.rows for commit in commits),
        rows_first=commits[0].shard.rows if commits else 0,
        rows_reused=sum(commit.reused for commit in commits),
        teacher_s=sum(commit.teacher_s for commit in commits),
        first_commit_unix_s=first,
        last_commit_unix_s=last,
    )


def _contradictions(state: LogState) -> Iterator[str]:
    """What can't be in a log that one committer at a time wrote."""
    if state.void_commits:
        yield f"{state.void_commits} commits shared rows with earlier ones and are void"
    if state.done.rows != state.rows_labelled + state.rows_quarantined:
        yield f"{state.rows_labelled} rows labelled and {state.rows_quarantined} quarantined are not the {state.done.rows} that are done"
    for start, stop in state.done:
        if stop > state.rows_planned:
            yield f"rows {max(start, state.rows_planned)} to {stop - 1} are done and were never planned"
    for seal in state.windows:
        held = sum(commit.shard.rows for commit in state.commits[seal.first_commit : seal.stop_commit])
        if held != seal.rows:
            yield f"window {seal.window} was sealed with {seal.rows} rows and holds {held}"
    committed = {commit.shard.key for commit in state.commits}
    for key in state.repairs:
        if key not in committed:
            yield f"{key} was repaired and never committed"


def _problem(store: Store, state: LogState, commit: Commit) -> BadShard | None:
    ref = state.shard_of(commit)

    def bad(problem: str) -> BadShard:
        return BadShard(shard=commit.shard.key, object=ref.key, rows=commit.shard.rows, problem=problem)

    try:
        shard = read_shard(store, ref)
    except (ShardCorruptError, ShardUnknownError) as error:
        return bad(f"{error.found}; expected {error.expected}")
    quarantined = {row.row for row in commit.quarantined}
    expected = [row for row in range(commit.start, commit.stop) if row not in quarantined]
    if not np.array_equal(shard.table["row"].to_numpy(), expected):
        return bad("its rows are not those of its commit")
    if shard.classes != state.classes:
        return bad(f"its classes are {list(shard.classes)}; expected {list(state.classes)} as in the log")
    if shard.teacher not in ({commit.teacher} if ref == commit.shard else state.teachers):
        return bad(f"its teacher is {shard.teacher}; expected {commit.teacher} as in the log")
    return None
