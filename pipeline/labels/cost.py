"""What labels took of the teacher's time, as the log has it, and what that time would have been without keeping them. Pure.

Spent is measured: the seconds that teachers were at work on what was then committed. What students would have asked for, and what known
content saved, is arithmetic on two measured figures: a number of labels, times the mean seconds of a label that was asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.labels.entries import Commit
from pipeline.labels.state import LogState


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds on one generation's labels or by one teacher."""

    of: str
    rows: int
    rows_reused: int
    """Of those, the ones with a label that was there."""
    teacher_s: float
    saved_s: float
    """What the reused ones would have taken."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One student's training in one generation, now over: which labels it read."""

    student: str
    generation: int
    teacher: str
    """Fingerprint of who made the labels."""
    new_rows: int
    """Labels of the generation itself, which it read first, each once."""
    rows: int
    """Labels it read in all, each as often as it did."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a training would have taken of the teacher's time, had the student asked for itself."""

    training: Training
    once_s: float
    """For each of the generation's new labels once: the least that a student of its own labels would have needed."""
    each_time_s: float
    """At each reading: a teacher in the training loop."""


@dataclass(frozen=True, kw_only=True)
class LabelsCost:
    """Without repairs, and without what was lost before it was committed."""

    rows: int
    rows_reused: int
    teacher_s: float
    saved_s: float
    generations: tuple[Spent, ...]
    teachers: tuple[Spent, ...]
    """By fingerprint."""
    students: tuple[Asked, ...]
    """Empty where no training is over."""


def labels_cost(state: LogState, trainings: Sequence[Training] = ()) -> LabelsCost:
    """Add up the commits, by generation (the open one last) and by teacher, and hold them against what students read."""
    last = max(state.ends, default=0)
    by_generation = [(f"generation {number}", state.commits_of(number)) for number in sorted(state.ends)]
    by_generation.append((f"generation {last + 1}, open", state.commits_of(last + 1)))
    by_teacher = {name: _spent(f"teacher {name}", (c for c in state.commits if c.teacher == name)) for name in sorted(state.teachers)}
    total = _spent("all", state.commits)
    return LabelsCost(
        rows=total.rows,
        rows_reused=total.rows_reused,
        teacher_s=total.teacher_s,
        saved_s=total.saved_s,
        generations=tuple(_spent(of, commits) for of, commits in by_generation if commits),
        teachers=tuple(spent for spent in by_teacher.values() if spent.rows),
        students=tuple(_asked(training, by_teacher.get(training.teacher, total)) for training in trainings),
    )


def _asked(training: Training, spent: Spent) -> Asked:
    """By the mean of its teacher; by the mean of all where labels of several were mixed."""
    a_label_s = _mean_s(spent.teacher_s, spent.rows - spent.rows_reused)
    return Asked(training=training, once_s=training.new_rows * a_label_s, each_time_s=training.rows * a_label_s)


def _spent(of: str, commits: Iterable[Commit]) -> Spent:
    found = [(commit.shard.rows, commit.reused, commit.teacher_s) for commit in commits]
    rows, reused, teacher_s = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0, 0.0)
    return Spent(of=of, rows=rows, rows_reused=reused, teacher_s=teacher_s, saved_s=reused * _mean_s(teacher_s, rows - reused))


def _mean_s(seconds: float, rows: int) -> float:
    return seconds / rows if rows else 0.0
