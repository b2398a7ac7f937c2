"""A plot as inline SVG: frame, axes, grid, marks. Drawn for the width of a phone; two or three stand side by side on a desk.

Colours are classes of the page's style sheet, so a plot follows light and dark. Every mark has a <title>, which a pointer shows.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.markup import brief, ends_of, tag
from pipeline.report.scale import Scale

WIDTH = 340
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 26.0, 40.0
HEIGHT = 250
ROW, BAR = 42.0, 12.0
"""Height of a row of `bars`, of which the bar itself."""
CHARACTER, NARROW_WIDTH, WIDE_WIDTH = 8.2, 5.3, 13.0
NARROW, WIDE = frozenset(" .,:;'|!ijlftr()[]"), frozenset("mwMWOQ@%<>+=&…")
WIDE_FROM = 0x1100
"""Widths of characters, about, at the size that plots write in; from there on most scripts fill a square."""


@dataclass(frozen=True, kw_only=True)
class Point:
    x: float
    y: float
    says: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of `bars`: its label above, its value at the right, and an interval where it has one."""

    label: str
    value: float
    shown: str
    colour: str
    low: float | None = None
    high: float | None = None
    says: str = ""


def width_of(text: str) -> float:
    """Of a line of a plot, about, in a wide font: names must not run into figures."""
    return sum(NARROW_WIDTH if char in NARROW else WIDE_WIDTH if char in WIDE or ord(char) > WIDE_FROM else CHARACTER for char in text)


def fitted(text: str, room: float) -> str:
    """As much of its beginning and its end as there is room for."""
    most = len(text)
    while most > 1 and width_of(ends_of(text, most)) > room:
        most -= 1
    return ends_of(text, most)


def svg(title: str, says: str, height: float, *marks: Markup) -> Markup:
    """The element itself; `title` and `says` are what a screen reader reads."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", says),
        *marks,
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_label=f"{title}. {says}",
        preserveAspectRatio="xMidYMid meet",
    )


def plane() -> tuple[tuple[float, float], tuple[float, float]]:
    """Where x and y run in a plot with axes: (left, right), (bottom, top)."""
    return (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)


def axes(
    x: Scale, y: Scale, *, x_label: str, y_label: str, x_shown: Callable[[float], str] = brief, x_ticks: Sequence[float] | None = None
) -> Markup:
    """Grid, numbers and names."""
    lines = [
        tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y(at), y2=y(at))
        + tag("text", brief(at), class_="tick", x=LEFT - 6, y=y(at) + 4, text_anchor="end")
        for at in y.ticks(5)
    ]
    lines += [
        tag("line", class_="axis", x1=x(at), x2=x(at), y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4)
        + tag("text", x_shown(at), class_="tick", x=x(at), y=HEIGHT - BOTTOM + 17, text_anchor=_anchor(x(at)))
        for at in (x.ticks(5) if x_ticks is None else x_ticks)
    ]
    return tag(
        "g",
        *lines,
        tag("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM),
        tag("text", y_label, class_="name", x=4, y=13),
        tag("text", x_label, class_="name", x=WIDTH - RIGHT, y=HEIGHT - 5, text_anchor="end"),
    )


def _anchor(place: float) -> str:
    """A number at the right edge ends there."""
    return "end" if place > WIDTH - RIGHT - 8 else "middle"


def line(points: Sequence[Point], x: Scale, y: Scale, *, colour: str, faint: bool = False, dots: bool = True) -> Markup:
    places = [(x(point.x), y(point.y)) for point in points]
    path = "M" + "L".join(f"{at:.1f} {up:.1f}" for at, up in places)
    marks = [
        tag("circle", tag("title", point.says), class_="dot" if dots else "touch", cx=at, cy=up, r=3.5 if dots else 7.0)
        for point, (at, up) in zip(points, places, strict=True)
    ]
    return tag("g", tag("path", class_="line", d=path), *marks, class_=f"{colour} faint" if faint else colour)


def columns(counts: Sequence[int], x: Scale, y: Scale, *, colour: str, says: Callable[[int], str]) -> Markup:
    """A histogram over the range of `x`."""
    edges = [x(x.low + (x.high - x.low) * place / len(counts)) for place in range(len(counts) + 1)]
    marks = [
        tag(
            "rect",
            tag("title", says(place)),
            class_="bar",
            x=left + 0.5,
            y=y(count),
            width=max(right - left - 1, 0.5),
            height=y(0) - y(count),
        )
        for place, (count, (left, right)) in enumerate(zip(counts, itertools.pairwise(edges), strict=True))
        if count
    ]
    return tag("g", *marks, class_=colour)


def bars(title: str, says: str, rows: Sequence[Bar], *, high: float | None = None, bound: float | None = None) -> Markup:
    """Horizontal bars from 0, each under its label; whiskers are intervals. `bound` is a mark on each."""
    top = high if high is not None else max((max(row.value, row.high or 0.0) for row in rows), default=0.0) or 1.0
    x = Scale(low=0.0, high=top, start=4.0, stop=WIDTH - 8.0)
    height = ROW * len(rows) + 6
    marks = [_bar(row, place * ROW, x) for place, row in enumerate(rows)]
    if bound is not None:
        path = "".join(f"M{x(bound):.1f} {place * ROW + 18:.1f}v{BAR + 4}" for place in range(len(rows)))
        marks.append(tag("path", tag("title", f"budget {bound:g}"), class_="bound", d=path))
    return svg(title, says, height, *marks)


def _bar(row: Bar, top: float, x: Scale) -> Markup:
    room = WIDTH - 24 - 1.15 * width_of(row.shown)  # which is bold
    at, middle = top + 20, top + 20 + BAR / 2
    marks = [
        tag("text", fitted(row.label, room), class_="label", x=4, y=top + 14),
        tag("text", row.shown, class_="value", x=WIDTH - 8, y=top + 14, text_anchor="end"),
        tag("rect", class_="rail", x=x(0), y=at, width=x(x.high) - x(0), height=BAR, rx=2),
        tag("rect", class_="bar", x=x(0), y=at, width=max(x(min(row.value, x.high)) - x(0), 1.0), height=BAR, rx=2),
    ]
    if row.low is not None and row.high is not None:
        ends = x(row.low), x(min(row.high, x.high))
        marks.append(
            tag("path", class_="whisker", d=f"M{ends[0]:.1f} {middle}H{ends[1]:.1f}" + "".join(f"M{e:.1f} {middle - 4}v8" for e in ends))
        )
    return tag("g", tag("title", row.says or f"{row.label}: {row.shown}"), *marks, class_=row.colour)
