"""How many workers a student's trainer has, and what each asks of the cluster. Pure decisions.

A student with a range of workers is elastic: Ray Train gives it as many as there is room for, and looks again while it trains; each resize
is a restart from the newest checkpoint. It counts room by a resource that only trainers take, `kd_trainer`; without one in the cluster an
elastic trainer would never start, so then the number is fixed. Ray serves who asks first as far as it goes: so that no student waits in
silence for another's end, each has its least, and what is left over is shared out evenly beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import RunFile, StudentSection

TRAINER = "kd_trainer"
"""A node offers as many as it may have trainer workers."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    least: int
    most: int
    elastic: bool
    resources: Mapping[str, float]
    """Of one worker."""
    says: str = ""
    """What a person should know, or do."""


def scale_of(section: StudentSection, *, offered: float, rivals: Sequence[int] = ()) -> Scale:
    """`offered` is how many trainer workers the cluster has room for by its own word; `rivals` is what each other elastic student of the
    run takes of them at least."""
    resources = {"CPU": section.cpus} | ({"GPU": section.gpus} if section.gpus else {})
    least, most = section.workers_least, section.workers_most
    if least == most:
        return Scale(least=least, most=least, elastic=False, resources=resources)
    if offered < 1:
        says = (
            f"{least} of {least} to {most} workers, a fixed number: no node offers {TRAINER}; "
            f"""start nodes with `ray start --resources '{{"{TRAINER}": N}}'`, N workers each, and run again"""
        )
        return Scale(least=least, most=least, elastic=False, resources=resources, says=says)
    if rivals:
        spare = int(offered) - least - sum(rivals)
        most = min(most, least + max(0, spare // (1 + len(rivals))))
    return Scale(least=least, most=most, elastic=True, resources=resources | {TRAINER: 1.0})


def trainers_offered(run: RunFile, cpus: int) -> int:
    """How many `kd_trainer` a run's own machine offers, beside teachers and the students of a fixed number; 0 where none is elastic."""
    elastic = [student for student in run.students.values() if student.workers_least < student.workers_most]
    if not elastic:
        return 0
    fixed = sum(student.cpus * student.workers_least for student in run.students.values() if student not in elastic)
    room = (cpus - run.teacher.cpus * run.teacher.workers_min - fixed) / max(student.cpus for student in elastic)
    least, most = sum(student.workers_least for student in elastic), sum(student.workers_most for student in elastic)
    return max(least, min(most, int(room)))


def rivals_of(run: RunFile, name: str) -> tuple[int, ...]:
    """Least numbers of workers of the other elastic students of a run."""
    others = [student for other, student in run.students.items() if other != name]
    return tuple(student.workers_least for student in others if student.workers_least < student.workers_most)
