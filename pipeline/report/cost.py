"""What labels took of the teacher's time, and what it would have been had each student asked for itself."""

from pipeline.labels.cost import LabelsCost
from pipeline.report.facts import RunFacts
from pipeline.report.plot import Bar, bars
from pipeline.report.section import Figure, Section, Table

TITLE = "Cost"
GENERATIONS = 8


def cost(facts: RunFacts) -> Section:
    found = facts.cost
    if found is None or not found.rows:
        return Section(id="cost", title=TITLE, says="", missing="Nothing is labelled yet.")
    asked = found.rows - found.rows_reused
    each = f", {1000 * found.teacher_s / asked:,.3g} ms each" if asked else ""
    reused = (
        f" {found.rows_reused:,} labels of known content were reused and saved {_seconds(found.saved_s)}."
        if found.rows_reused
        else " None was reused."
    )
    says = f"The teacher answered {asked:,} times in {_seconds(found.teacher_s)}{each}.{reused}"
    figures = [_spent(found)]
    if found.students:
        figures.append(_without(found))
    return Section(id="cost", title=TITLE, says=says, figures=figures)


def _spent(found: LabelsCost) -> Figure:
    drawn = found.generations[-GENERATIONS:]
    rows = [
        Bar(
            label=spent.of.capitalize(),
            value=spent.teacher_s,
            shown=_seconds(spent.teacher_s),
            colour="labels",
            says=f"{spent.of}: {_seconds(spent.teacher_s)} for {spent.rows - spent.rows_reused:,} labels; {spent.rows_reused:,} were known",
        )
        for spent in drawn
    ]
    more = f" The newest {GENERATIONS} are drawn." if len(found.generations) > GENERATIONS else ""
    return Figure(
        title="Teacher seconds spent",
        caption=f"Without repairs, and without what was lost before it was committed.{more}",
        svg=bars("Teacher seconds by generation", f"{_seconds(found.teacher_s)} in all", rows),
        table=Table(
            head=("", "labels", "reused", "seconds", "saved"),
            rows=[
                [s.of, f"{s.rows:,}", f"{s.rows_reused:,}", _seconds(s.teacher_s), _seconds(s.saved_s)]
                for s in (*found.generations, *found.teachers)
            ],
        ),
    )


def _without(found: LabelsCost) -> Figure:
    """What all trainings would have asked for."""
    once, each = (sum(getattr(asked, name) for asked in found.students) for name in ("once_s", "each_time_s"))
    read = sum(asked.training.rows for asked in found.students)
    rows = [
        Bar(label="With stored labels", value=found.teacher_s, shown=_seconds(found.teacher_s), colour="labels"),
        Bar(label="Each student asks once a label", value=once, shown=_seconds(once), colour="teacher"),
        Bar(label="A teacher in the training loop", value=each, shown=_seconds(each), colour="teacher"),
    ]
    return Figure(
        title="What storing them saves",
        caption=f"Students read {read:,} labels, {read / found.rows:,.1f} for each there is. Grey: reckoned from the mean time of a label.",
        svg=bars("Teacher seconds with and without stored labels", "; ".join(f"{row.label}: {row.shown}" for row in rows), rows),
        table=Table(
            head=("", "new labels", "once", "read", "each time"),
            rows=[
                [
                    f"{a.training.student}, generation {a.training.generation}",
                    f"{a.training.new_rows:,}",
                    _seconds(a.once_s),
                    f"{a.training.rows:,}",
                    _seconds(a.each_time_s),
                ]
                for a in found.students
            ],
        ),
    )


def _seconds(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds:,.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"
