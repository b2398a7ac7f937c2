"""What labels took of the teacher's time, as the log has it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.labels.entries import Commit
from pipeline.labels.state import LogState


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds on one generation's labels or by one teacher."""

    of: str
    rows: int
    teacher_s: float


@dataclass(frozen=True, kw_only=True)
class LabelsCost:
    """Without repairs, and without what was lost before it was committed."""

    rows: int
    teacher_s: float
    generations: tuple[Spent, ...]
    teachers: tuple[Spent, ...]
    """By fingerprint."""


def labels_cost(state: LogState) -> LabelsCost:
    """Add up the commits, by generation (the open one last) and by teacher."""
    last = max(state.ends, default=0)
    by_generation = [(f"generation {number}", state.commits_of(number)) for number in sorted(state.ends)]
    by_generation.append((f"generation {last + 1}, open", state.commits_of(last + 1)))
    by_teacher = [(f"teacher {name}", [found for found in state.commits if found.teacher == name]) for name in sorted(state.teachers)]
    total = _spent("all", state.commits)
    return LabelsCost(
        rows=total.rows,
        teacher_s=total.teacher_s,
        generations=tuple(_spent(of, commits) for of, commits in by_generation if commits),
        teachers=tuple(_spent(of, commits) for of, commits in by_teacher if commits),
    )


def _spent(of: str, commits: Iterable[Commit]) -> Spent:
    pairs = [(commit.shard.rows, commit.teacher_s) for commit in commits]
    return Spent(of=of, rows=sum(rows for rows, _ in pairs), teacher_s=sum(seconds for _, seconds in pairs))
