"""Which class is taken for which. Few classes: the whole matrix. Many: the commonest confusions."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import ends_of, percent, tag
from pipeline.report.plot import CHARACTER, WIDTH, Bar, bars, svg
from pipeline.report.section import Figure, Section, Table, colour_of

MATRIX_MAX = 10
COMMONEST = 10
SIDE, HEAD = 62.0, 62.0
"""Room for the names of the true classes at the left, and of the answered ones above."""
NAME = 7
"""Characters of a class's name that fit there."""


def confusion(facts: RunFacts) -> Section:
    says = "What the gate's samples are, against what the student says of them. The stronger a colour, the more of the class; red is wrong."
    counted = [version for version in facts.newest_with("verdict") if _breakdown(version)]
    found = [version for version in counted if _named(version)]
    unnamed = "The verdict is over other classes than the run file's, and does not say over which."
    missing = "" if found else unnamed if counted else "No verdict with counted confusions yet."
    figures = [_figure(version, colour_of(facts.place_of(version.student))) for version in found]
    return Section(id="confusion", title="Confusion", says=says, figures=figures, missing=missing)


def _breakdown(version: Version) -> Mapping[str, Any]:
    return (version.verdict or {}).get("report", {}).get("breakdown") or {}


def _named(version: Version) -> bool:
    """Whether every class that it counts has a name: an older kdpipe did not write them down."""
    found = _breakdown(version)
    places = [each["place"] for each in found["classes"]] + [each["said"] for each in found["confusions"]]
    return max(places, default=-1) < len(version.classes)


def _figure(version: Version, colour: str) -> Figure:
    found, classes = _breakdown(version), version.classes
    wrong = [(classes[c["truth"]], classes[c["said"]], c["samples"]) for c in found["confusions"]]
    of = {classes[c["place"]]: (c["samples"], c["right"]) for c in found["classes"]}
    total, right = sum(samples for samples, _ in of.values()), sum(right for _, right in of.values())
    says = f"{total - right:,} of {total:,} wrong" + (f", most often {wrong[0][0]} taken for {wrong[0][1]}" if wrong else "")
    title = f"Confusion of {version.name}"
    few = len(classes) <= MATRIX_MAX
    drawn = _matrix(title, says, classes, wrong, of, colour) if few else _commonest(title, says, wrong, of)
    left_out = found["confusions_left_out"]
    rest = f" The {COMMONEST} commonest are drawn." if not few and len(wrong) > COMMONEST else ""
    rest += f" Of the rarest, {left_out:,} samples were counted and not kept." if left_out else ""
    rows = [[truth, said, f"{samples:,}", percent(samples / of[truth][0])] for truth, said, samples in wrong[:50]]
    return Figure(
        title=version.name, caption=f"{says}.{rest}", svg=drawn, table=Table(head=("is", "taken for", "samples", "of its class"), rows=rows)
    )


def _matrix(
    title: str, says: str, classes: Sequence[str], wrong: Sequence[tuple[str, str, int]], of: Mapping[str, tuple[int, int]], colour: str
) -> Markup:
    counts = {(truth, said): samples for truth, said, samples in wrong} | {(name, name): right for name, (_, right) in of.items()}
    cell = (WIDTH - SIDE - 4) / len(classes)
    turn = max(len(name) for name in classes) * CHARACTER > cell
    head = HEAD if turn else 38.0
    high = min(cell, 44.0)
    marks = [tag("text", "is ↓  says →", class_="tick", x=4, y=14)]
    for place, name in enumerate(classes):
        middle, row = SIDE + cell * (place + 0.5), head + high * (place + 0.5)
        turned = f"rotate(-55 {middle:.1f} {head - 6:.1f})" if turn else None
        anchor = "start" if turned else "middle"
        shown = ends_of(name, NAME)
        marks += [
            tag("text", tag("title", name), shown, class_="tick", x=middle, y=head - 6, text_anchor=anchor, transform=turned),
            tag("text", tag("title", name), shown, class_="tick", x=SIDE - 6, y=row + 4, text_anchor="end"),
        ]
        marks += [
            _cell(name, said, counts.get((name, said), 0), of.get(name, (0, 0))[0], SIDE + cell * at, head + high * place, cell, high)
            for at, said in enumerate(classes)
        ]
    return svg(title, says, head + high * len(classes) + 6, tag("g", *marks, class_=colour))


def _cell(truth: str, said: str, samples: int, of: int, x: float, y: float, width: float, height: float) -> Markup:
    share = samples / of if of else 0.0
    kind = "cell right" if truth == said else "cell wrong"
    told = f"{truth} taken for {said}" if truth != said else f"{truth} taken for what it is"
    title = tag("title", f"{told}: {samples:,} of {of:,}, {percent(share)}")
    text = Markup("")
    if samples:
        shown = f"{samples}" if samples < 1000 else f"{samples / 1000:.0f}k"
        ink = "on" if share > (0.5 if truth == said else 0.2) else "off"
        text = tag("text", shown, class_=f"count {ink}", x=x + width / 2, y=y + height / 2 + 4.5, text_anchor="middle")
    strength = 0.0 if not samples else min(1.0, 0.15 + 0.85 * share) if truth == said else min(1.0, 0.25 + 2 * share)
    box = tag("rect", class_=kind, x=x + 0.5, y=y + 0.5, width=width - 1, height=height - 1, rx=2, fill_opacity=f"{strength:.2f}")
    return tag("g", title, tag("rect", class_="empty", x=x + 0.5, y=y + 0.5, width=width - 1, height=height - 1, rx=2), box, text)


def _commonest(title: str, says: str, wrong: Sequence[tuple[str, str, int]], of: Mapping[str, tuple[int, int]]) -> Markup:
    rows = [
        Bar(
            label=f"{ends_of(truth, 16)} → {ends_of(said, 16)}",
            value=samples,
            shown=f"{samples:,}",
            colour="bad",
            says=f"{truth} taken for {said}: {samples:,} of {of[truth][0]:,}, {percent(samples / of[truth][0])}",
        )
        for truth, said, samples in wrong[:COMMONEST]
    ]
    return bars(title, says, rows)
