"""How good they are: teacher, student and control on the test split, with what so many samples leave open."""

from collections.abc import Mapping
from typing import Any

from pipeline.distill.paired import Z_TWO_SIDED_95, wilson_interval
from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import amount_bytes, number, percent
from pipeline.report.plot import HEIGHT, Bar, Point, axes, bars, line, plane, svg
from pipeline.report.scale import Scale, scale
from pipeline.report.section import Figure, Key, Section, Table, colour_of

WHO = ("teacher", "student", "control")
HEAD = ("", "accuracy", "agreement", "AUC", "recall", "ECE", "size", "p50 ms")


def quality(facts: RunFacts) -> Section:
    tested = facts.newest_with("test")
    says = (
        "On the test split, which decides nothing. The control is the same student, taught by the hard labels alone. Whiskers hold the "
        "true share with 95 % (Wilson): where they overlap, both may be equally good. They tell the spread over samples, not over seeds."
    )
    missing = "" if tested else "Nothing is measured on the test split yet, or the run file names none."
    figures = [_figure(version, colour_of(facts.place_of(version.student))) for version in tested]
    trend = _trend(facts)
    return Section(
        id="quality", title="Teacher, student, control", says=says, figures=[*figures, *([trend] if trend else [])], missing=missing
    )


def _figure(version: Version, colour: str) -> Figure:
    test = version.test
    assert test is not None
    measure, colours = _measure(test), {"teacher": "teacher", "student": colour, "control": "control"}
    rows = [_bar(who, test[who], measure, colours[who]) for who in WHO if test[who] and test[who][measure] is not None]
    caption = [
        f"{measure.capitalize()} on {test['rows']:,} samples.",
        _beside_control(test),
        "" if test["control"] else "No control: the run has no hard labels, or it is not trained yet.",
    ]
    return Figure(
        title=version.name,
        caption=" ".join(word for word in caption if word),
        svg=bars(f"{measure} of {version.student}", "; ".join(f"{row.label} {row.shown}" for row in rows), rows, high=1.0),
        table=Table(head=HEAD, rows=[_row(who, test[who]) for who in WHO if test[who]]),
    )


def _measure(test: Mapping[str, Any]) -> str:
    """Without hard labels, agreement with the teacher is all there is."""
    return "accuracy" if test["student"]["accuracy"] is not None else "agreement"


def _interval(figures: Mapping[str, Any], measure: str) -> tuple[float, float]:
    samples = figures["labelled"] if measure == "accuracy" else figures["samples"]
    return wilson_interval(round(figures[measure] * samples), samples, z=Z_TWO_SIDED_95)


def _bar(who: str, figures: Mapping[str, Any], measure: str, colour: str) -> Bar:
    low, high = _interval(figures, measure)
    shown = percent(figures[measure])
    told = f"{who}: {measure} {shown}, 95 % between {percent(low)} and {percent(high)}"
    return Bar(label=who, value=figures[measure], shown=shown, colour=colour, low=low, high=high, says=told)


def _beside_control(test: Mapping[str, Any]) -> str:
    over = test["student_minus_control"]
    words = {"accuracy": "accuracy", "auc": "AUC", "recall_at_fpr": "recall"}
    gains = [f"{words[name]} {100 * gain:+.1f}" for name, gain in (over or {}).items() if gain is not None]
    return f"Student minus control, in points: {', '.join(gains)}." if gains else ""


def _row(who: str, figures: Mapping[str, Any]) -> list[str]:
    shares = [percent(figures[name]) for name in ("accuracy", "agreement")]
    others = [number(figures[name]) for name in ("auc", "recall_at_fpr", "ece")]
    size = figures["size_bytes"]
    return [who, *shares, *others, amount_bytes(size) if size else "–", number(figures["latency_p50_ms"])]


def _trend(facts: RunFacts) -> Figure | None:
    """Accuracy of each student over the generations; None for a single one."""
    tested = [version for version in facts.versions if version.test]
    generations = sorted({version.generation for version in tested})
    if len(generations) < 2:
        return None
    measure = _measure(tested[-1].test or {})
    shares = {(v.student, v.generation): v.test["student"][measure] for v in tested if v.test and v.test["student"][measure] is not None}
    if not shares:
        return None
    (left, right), (bottom, top) = plane()
    x = Scale(low=generations[0], high=generations[-1], start=left + 10, stop=right - 10)
    y = scale(list(shares.values()), bottom, top)
    students = sorted({student for student, _ in shares})
    marks, keys = [], []
    for student in students:
        colour = colour_of(facts.place_of(student))
        points = [
            Point(x=number_, y=share, says=f"{student}, generation {number_}: {measure} {percent(share)}")
            for (name, number_), share in sorted(shares.items())
            if name == student
        ]
        marks.append(line(points, x, y, colour=colour))
        keys.append(Key(colour=colour, label=student))
    says = f"{measure} on the test split from generation {generations[0]} to {generations[-1]}"
    return Figure(
        title="Over the generations",
        caption=f"{measure.capitalize()} of each version, on the same test split.",
        svg=svg(
            "Over the generations",
            says,
            HEIGHT,
            axes(x, y, x_label="generation", y_label=measure, x_ticks=generations[:: -(-len(generations) // 8)]),
            *marks,
        ),
        keys=keys,
        table=Table(
            head=("generation", *students),
            rows=[[str(g), *(percent(shares.get((student, g))) for student in students)] for g in generations],
        ),
    )
