"""How students learnt: training loss against labels seen."""

from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import brief, number
from pipeline.report.plot import HEIGHT, Point, axes, line, plane, svg
from pipeline.report.scale import Scale, scale
from pipeline.report.section import Figure, Key, Section, Table, colour_of

GENERATIONS = 4
"""The newest ones, drawn; older curves of a student lie behind its newest, fainter."""


def curves(facts: RunFacts) -> Section:
    says = "Loss of the training steps, against the labels a student had read by then: new ones first, each once, then replays."
    shown = tuple(
        student
        for student in sorted({v.student for v in facts.versions})
        if any(_points(v) for v in facts.versions if v.student == student)
    )
    missing = "" if shown else "No student's training is over yet."
    return Section(id="learning", title="Learning", says=says, figures=[_figure(facts, student) for student in shown], missing=missing)


def _figure(facts: RunFacts, student: str) -> Figure:
    drawn = [v for v in facts.versions if v.student == student and _points(v)][-GENERATIONS:]
    newest = drawn[-1]
    (left, right), (bottom, top) = plane()
    points = {version.generation: _points(version) for version in drawn}
    every = [point for found in points.values() for point in found]
    x = Scale(low=0.0, high=max(point.x for point in every), start=left, stop=right)
    y = scale([point.y for point in every], bottom, top, zero=True)
    colour = colour_of(facts.place_of(student))
    marks = [line(points[v.generation], x, y, colour=colour, faint=v is not newest, dots=False) for v in drawn]
    first, last = points[newest.generation][0], points[newest.generation][-1]
    assert newest.trained is not None
    title = f"{student}: loss against labels seen"
    what = f"From {number(first.y)} to {number(last.y)} over {brief(last.x)} labels read, {newest.trained['live_rows']:,} of them new."
    keys = [Key(colour=colour if v is newest else f"{colour} faint", label=f"generation {v.generation}") for v in reversed(drawn)]
    return Figure(
        title=student,
        caption=f"{what} {_training(newest)}",
        svg=svg(title, what, HEIGHT, axes(x, y, x_label="labels read", y_label="loss"), *marks),
        keys=keys if len(keys) > 1 else (),
        table=Table(
            head=("labels read", *(f"loss, gen. {v.generation}" for v in drawn)),
            rows=_rows([points[v.generation] for v in drawn]),
        ),
    )


def _points(version: Version) -> list[Point]:
    """Batches are of one size but for the end of a pass, so labels read go with steps."""
    trained = version.trained
    if not trained or not trained["steps"]:
        return []
    rows = [(trained["rows"] * step / trained["steps"], loss) for step, loss in trained["history"]]
    return [Point(x=at, y=loss, says=f"{version.name}: loss {number(loss)} after {at:,.0f} labels") for at, loss in rows]


def _training(version: Version) -> str:
    trained = version.trained
    assert trained is not None
    skipped = f", {trained['skipped_steps']:,} skipped" if trained["skipped_steps"] else ""
    start = "warm, from the release before" if trained["warm"] else "from scratch"
    return f"Started {start}; {trained['steps']:,} steps{skipped} in {trained['seconds']:.1f} s."


def _rows(curves_of: list[list[Point]]) -> list[list[str]]:
    """A tenth of the points: enough to read."""
    longest = max(curves_of, key=len)
    places = range(0, len(longest), max(1, len(longest) // 10))
    return [[f"{longest[at].x:,.0f}", *(number(c[at].y) if at < len(c) else "–" for c in curves_of)] for at in places]
