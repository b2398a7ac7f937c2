"""The top of the page: in plain sentences what ran, what shipped and why not, and a few figures to remember."""

from dataclasses import dataclass

from pipeline.loop.generation import Fate
from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import amount_bytes, number, percent


@dataclass(frozen=True, kw_only=True)
class Tile:
    figure: str
    says: str


ENDED = {
    "done": "The run is done",
    "stopped": "The run was stopped; the same command goes on",
    "failed": "The run failed",
}


def headline(facts: RunFacts) -> list[str]:
    """Sentences, the most important first."""
    return [_run(facts), *(_version(facts, version) for version in facts.latest()), *_not_there(facts)]


def _run(facts: RunFacts) -> str:
    closed = {version.generation for version in facts.versions if version.fate is not None}
    count = len(closed)
    turns = "no generation is closed yet" if not count else "one generation is closed" if count == 1 else f"{count} generations are closed"
    if facts.live:
        now = f"The run goes on: it is at “{facts.stage}”"
    elif facts.stage in ENDED:
        now = ENDED[facts.stage]
    else:
        now = f"The run was killed at “{facts.stage}”; the same command goes on"
    error = f" Error: {facts.error}" if facts.error else ""
    return f"{_taught(facts)} {now}; {turns}.{error}"


def _taught(facts: RunFacts) -> str:
    students = sorted({version.student for version in facts.versions})
    if not facts.labels or not facts.labels.rows_committed:
        return "Nothing is labelled yet."
    learn = (
        f" for {len(students)} students: {', '.join(students)}"
        if len(students) > 1
        else f" for the student {students[0]}"
        if students
        else ""
    )
    return f"The teacher ({facts.teacher}) labelled {facts.labels.rows_committed:,} of {facts.labels.rows_planned:,} samples{learn}."


def _version(facts: RunFacts, version: Version) -> str:
    name = f"{version.student} (generation {version.generation})"
    if version.fate is None:
        where = "judged" if version.verdict else "trained, not judged yet" if version.trained else "in training or waiting for it"
        return f"{name}: its generation is open; {where}."
    told = {
        Fate.SHIPPED: f"{name} shipped. {version.says}",
        Fate.REFUSED: f"{name} did not ship, the gate refused it: {_refusal(version)}",
        Fate.HALTED: f"{name} passed the gate and its rollout was halted. {version.says}",
        Fate.FAILED: f"{name} did not ship: its training failed. {version.says}",
        Fate.UNJUDGED: f"{name} did not ship: its export or its judging failed. {version.says}",
        Fate.NOT_DEPLOYED: f"{name} passed the gate; no population runs it. {version.says}",
    }
    known = {str(fate): sentence for fate, sentence in told.items()}
    return f"{known.get(version.fate, f'{name}: {version.fate}. {version.says}').strip().rstrip('.')}."


def _refusal(version: Version) -> str:
    """The lines that were not met; where the verdict cannot be read, what its outcome says."""
    if version.verdict is None:
        return version.says
    return "; ".join(line["says"] for line in version.verdict["report"]["lines"] if line["passed"] is False)


def _not_there(facts: RunFacts) -> list[str]:
    return [f"Could not be read: {what}" for what in facts.unread]


def tiles(facts: RunFacts) -> list[Tile]:
    found = []
    if facts.labels:
        labels = facts.labels
        found.append(
            Tile(
                figure=f"{labels.rows_committed:,}",
                says=f"labels of {labels.rows_planned:,} planned, {labels.rows_quarantined:,} quarantined",
            )
        )
    if facts.cost and facts.cost.rows:
        found.append(Tile(figure=f"{facts.cost.teacher_s:,.3g} s", says="of the teacher's time"))
    for version in facts.newest_with("test"):
        found.append(_student(version))
    return found


def _student(version: Version) -> Tile:
    assert version.test is not None
    student, teacher = version.test["student"], version.test["teacher"]
    measure = "accuracy" if student["accuracy"] is not None else "agreement"
    beside = f"teacher {percent(teacher[measure])}" if measure == "accuracy" else "with the teacher"
    ratio = student["of_teacher"]["size_bytes"]
    times = f", 1/{number(round(1 / ratio))} of it" if ratio and ratio < 1 / 1.5 else ""
    says = f"{measure} of {version.student}, {beside}; {amount_bytes(student['size_bytes'])}{times}"
    return Tile(figure=percent(student[measure]), says=says)
