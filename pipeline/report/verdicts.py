"""The gate's lines of every version, newest first: what was measured, what was asked, and what it said."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import number


@dataclass(frozen=True, kw_only=True)
class Line:
    mark: str
    """`pass`, `fail`, or empty for a figure that decides nothing."""
    name: str
    value: str
    bound: str
    says: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    name: str
    ships: bool
    summary: str
    open: bool
    """Whether its lines are shown at once: the newest of its student."""
    notes: Sequence[str]
    lines: Sequence[Line]


SHOWN = 24
ON_CHOOSE = {"accuracy": "accuracy", "agreement": "agreement", "auc": "AUC", "log_loss_nats": "log loss", "ece": "calibration error"}


def verdicts(facts: RunFacts) -> list[Verdict]:
    newest = {version.name for version in facts.newest_with("verdict")}
    judged = sorted((version for version in facts.versions if version.verdict), key=lambda version: (-version.generation, version.student))
    return [_verdict(version, newest=version.name in newest) for version in judged[:SHOWN]]


def left_out(facts: RunFacts) -> int:
    """Verdicts that are too old to be shown."""
    return max(0, sum(version.verdict is not None for version in facts.versions) - SHOWN)


def _verdict(version: Version, *, newest: bool) -> Verdict:
    assert version.verdict is not None
    report, export, chosen = version.verdict["report"], version.verdict["export"], version.verdict.get("choose", {})
    notes = [f"Judged by {report['basis']}, on the {export['quantisation']} file in onnxruntime."]
    if export["reason"]:
        notes.append(f"Exported as {export['quantisation']}: {export['reason']}.")
    shown = [f"{word} {number(chosen[name])}" for name, word in ON_CHOOSE.items() if chosen.get(name) is not None]
    if shown:
        notes.append(f"On `choose`, by which ways to train may be compared: {', '.join(shown)}.")
    return Verdict(
        name=version.name,
        ships=report["ships"],
        summary=report["summary"],
        open=newest,
        notes=notes,
        lines=[
            Line(
                mark={True: "pass", False: "fail", None: ""}[line["passed"]],
                name=line["name"],
                value=number(line["value"]),
                bound="" if line["bound"] is None else number(line["bound"]),
                says=line["says"],
            )
            for line in report["lines"]
            if line["value"] is not None or line["passed"] is not None
        ],
    )
