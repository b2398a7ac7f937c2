"""Whether students know what they do not know: the reliability diagram, from what the gate saw."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import number, percent, tag
from pipeline.report.plot import HEIGHT, Point, axes, plane, svg
from pipeline.report.scale import Scale
from pipeline.report.section import Figure, Section, Table, colour_of

SHARE_OF_HEIGHT = 0.3
"""What the columns of counts take at most, behind the curve."""


def calibration(facts: RunFacts) -> Section:
    says = (
        "Answers grouped by how sure the student is: on the diagonal, a probability means what it says. Below it the student is too sure, "
        "above it not sure enough. Large dots and high columns are many answers; small ones say little. On the gate's samples, after the "
        "fitted temperature."
    )
    found = [version for version in facts.newest_with("verdict") if bands_of(version)]
    missing = "" if found else "No verdict with reliability bands yet."
    figures = [_figure(version, colour_of(facts.place_of(version.student))) for version in found]
    return Section(id="calibration", title="Calibration", says=says, figures=figures, missing=missing)


def bands_of(version: Version) -> Sequence[dict[str, Any]]:
    breakdown = (version.verdict or {}).get("report", {}).get("breakdown") or {}
    bands: Sequence[dict[str, Any]] = breakdown.get("bands", ())
    return bands


def _figure(version: Version, colour: str) -> Figure:
    assert version.verdict is not None
    bands, error = bands_of(version), version.verdict["report"]["candidate"]["ece"]
    (left, right), (bottom, top) = plane()
    x, y = (Scale(low=0.0, high=1.0, start=a, stop=b) for a, b in ((left, right), (bottom, top)))
    points = [Point(x=band["confidence"], y=band["right"] / band["samples"], says=_says(band)) for band in bands]
    diagonal = tag("path", class_="ideal", d=f"M{x(0):.1f} {y(0):.1f}L{x(1):.1f} {y(1):.1f}")
    most = max(band["samples"] for band in bands)
    heights = [(band, SHARE_OF_HEIGHT * (bottom - top) * band["samples"] / most) for band in bands]
    columns = [
        tag("rect", tag("title", _says(band)), class_="behind", x=x(band["confidence"]) - 6, y=bottom - height, width=12, height=height)
        for band, height in heights
    ]
    what = f"Calibration error {number(error)}" if error is not None else "Against the teacher's first class: the samples have no labels"
    frame = axes(x, y, x_label="says", y_label="is right")
    return Figure(
        title=version.name,
        caption=f"{what}. Temperature {number(version.verdict['export']['temperature'])}.",
        svg=svg(f"Reliability of {version.name}", what, HEIGHT, frame, *columns, diagonal, _curve(points, bands, x, y, colour)),
        table=Table(
            head=("says", "is right", "answers"),
            rows=[[percent(b["confidence"]), percent(b["right"] / b["samples"]), f"{b['samples']:,}"] for b in bands],
        ),
    )


def _curve(points: Sequence[Point], bands: Sequence[dict[str, Any]], x: Scale, y: Scale, colour: str) -> Markup:
    """Dots as large as their bands: a small one says little."""
    most = max(band["samples"] for band in bands)
    dots = [
        tag("circle", tag("title", point.says), class_="dot", cx=x(point.x), cy=y(point.y), r=2 + 5 * math.sqrt(band["samples"] / most))
        for point, band in zip(points, bands, strict=True)
    ]
    path = "M" + "L".join(f"{x(point.x):.1f} {y(point.y):.1f}" for point in points)
    return tag("g", tag("path", class_="line thin", d=path), *dots, class_=colour)


def _says(band: dict[str, Any]) -> str:
    return f"says {percent(band['confidence'])}, is right {percent(band['right'] / band['samples'])}, {band['samples']:,} answers"
