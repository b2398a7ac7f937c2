"""Where a student is worst: slices of the gate's samples, with what so few samples leave open."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import percent
from pipeline.report.plot import Bar, bars
from pipeline.report.section import Figure, Section, Table, colour_of

DRAWN = 8


def weak_spots(facts: RunFacts) -> Section:
    says = (
        "Slices of the gate's samples, the worst first: by class, by length of a text, by how sure the teacher is, and by what validation "
        "carries. The worst of many is low by chance too: look at the whiskers (95 %, Wilson)."
    )
    found = [version for version in facts.newest_with("verdict") if _slices(version)]
    missing = "" if found else "No verdict with slices of enough samples yet."
    figures = [_figure(version, colour_of(facts.place_of(version.student))) for version in found]
    return Section(id="slices", title="Worst slices", says=says, figures=figures, missing=missing)


def _slices(version: Version) -> Sequence[Mapping[str, Any]]:
    breakdown = (version.verdict or {}).get("report", {}).get("breakdown") or {}
    found: Sequence[Mapping[str, Any]] = breakdown.get("slices", ())
    return found


def _figure(version: Version, colour: str) -> Figure:
    assert version.verdict is not None
    found, report = _slices(version), version.verdict["report"]
    bound = next((line["bound"] for line in report["lines"] if line["name"] == "worst slice"), None)
    worst = found[0]
    says = f"Worst: {worst['by']} {worst['value']}, {percent(worst['right'] / worst['samples'])} of {worst['samples']:,}"
    budget = f" The red mark is the budget, {percent(bound)}." if bound is not None else ""
    many = f" {DRAWN} of {len(found)} are drawn." if len(found) > DRAWN else ""
    right = "" if report["basis"] == "labels" else " Right is what the teacher says."
    return Figure(
        title=version.name,
        caption=f"{says}.{right}{budget}{many}",
        svg=bars(f"Worst slices of {version.name}", says, [_bar(each, colour) for each in found[:DRAWN]], high=1.0, bound=bound),
        table=Table(head=("slice", "right", "95 %", "samples", "incumbent"), rows=[_row(each) for each in found]),
    )


def _bar(each: Mapping[str, Any], colour: str) -> Bar:
    share = each["right"] / each["samples"]
    shown, between = percent(share), f"95 % between {percent(each['low'])} and {percent(each['high'])}"
    told = f"{each['by']} {each['value']}: {each['right']:,} of {each['samples']:,} right, {between}"
    label = f"{each['by']} {each['value']}"
    return Bar(label=label, value=share, shown=shown, colour=colour, low=each["low"], high=each["high"], says=told)


def _row(each: Mapping[str, Any]) -> list[str]:
    before = each["incumbent_right"]
    return [
        f"{each['by']} {each['value']}",
        percent(each["right"] / each["samples"]),
        f"{percent(each['low'])} to {percent(each['high'])}",
        f"{each['samples']:,}",
        "–" if before is None else percent(before / each["samples"]),
    ]
