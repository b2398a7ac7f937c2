"""`run.json` as lines for a person. Pure: the same summary gives the same page, which is how the README's example is checked."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

SMALL_AT = 1 / 50
FAST_AT = 1 / 20
"""What a student should have at most of its teacher's bytes, or of its latency."""


def render(summary: Mapping[str, Any], *, width: int = 120) -> str:
    """The page that a run ends with."""
    console = Console(width=width, color_system=None, force_terminal=False, no_color=True)
    with console.capture() as capture:
        for block in (_labels(summary), _figures(summary), _comparisons(summary), _fates(summary), _devices(summary)):
            if block:
                console.print(block, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _labels(summary: Mapping[str, Any]) -> str:
    labels, learning = summary["labels"], summary["learning"]
    lines = [f"labels     {labels['rows_committed']:,} of {labels['rows_planned']:,} rows, {labels['rows_quarantined']:,} quarantined"]
    if learning:
        lines[0] += f"; {learning['teacher_rows']:,} by the teacher in generation {summary['generation']}"
        if learning.get("rows_reused"):
            lines[0] += f"; {learning['rows_reused']:,} were known"
        if learning["rows_per_s"]:
            lines[0] += f", {learning['rows_per_s']:,.0f}/s after the first commit"
        overlap = learning.get("overlap")
        if overlap:
            lines.append(
                f"overlap    labelling {overlap['labelling_s']:.1f} s, training {overlap['training_s']:.1f} s, "
                f"both at once {overlap['both_s']:.1f} s; first step {overlap['first_step_after_commit_s']:.2f} s after the first commit"
            )
    return "\n".join(lines)


def _figures(summary: Mapping[str, Any]) -> Table | None:
    tests = {name: test for name, test in summary["test"].items() if test}
    if not tests:
        return None
    first = next(iter(tests.values()))
    fpr = first["teacher"]["fixed_fpr"]
    title = f"test split, {first['rows']:,} samples, touched once a version; in brackets, of the teacher's"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("", "accuracy", "AUC", f"recall at {fpr:.0%} FPR", "agreement", "ECE", "bytes", "p50 ms"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    table.add_row("teacher", *_row(first["teacher"]))
    for name, test in tests.items():
        student, control = test["student"], test["control"]
        table.add_row(f"{name} ({student['quantisation']})", *_row(student))
        if control:
            fewer = f", {control['steps']:,} of {student['steps']:,} steps" if control["steps"] < student["steps"] else ""
            table.add_row(f"  control, hard labels{fewer} ({control['quantisation']})", *_row(control))
    return table


def _row(figures: Mapping[str, Any]) -> list[str]:
    size, latency, ratios = figures["size_bytes"], figures["latency_p50_ms"], figures.get("of_teacher", {})
    return [
        _share(figures["accuracy"]),
        _share(figures["auc"]),
        _share(figures["recall_at_fpr"]),
        _share(figures["agreement"]),
        _share(figures["ece"]),
        _beside(f"{size:,}" if size else "-", ratios.get("size_bytes")),
        _beside(f"{latency:.2f}", ratios.get("latency_p50_ms")),
    ]


def _comparisons(summary: Mapping[str, Any]) -> str:
    """For each student: what it is beside its teacher, and what it gains on its control."""
    lines = []
    for name, test in summary["test"].items():
        if test:
            lines.append(f"{name:<10} {_beside_teacher(test['student']['of_teacher'])}".rstrip())
            gains = test["student_minus_control"]
            if gains:
                lines.append(f"{'':<10} against its control: {', '.join(_gains(gains))} points")
    note = summary["teacher"]["note"]
    return "\n".join([*lines, *([f"{'':<10} {note}"] if note and lines else [])])


def _beside_teacher(ratios: Mapping[str, float | None]) -> str:
    words: list[str] = []
    for what, ratio, goal in (("size", ratios["size_bytes"], SMALL_AT), ("latency", ratios["latency_p50_ms"], FAST_AT)):
        if ratio is not None:
            whose = "its" if words else "the teacher's"
            words.append(f"{_times(ratio)} of {whose} {what} (goal {_times(goal)}: {'met' if ratio <= goal else 'missed'})")
    return ", ".join(words)


def _gains(gains: Mapping[str, float | None]) -> list[str]:
    words = {"accuracy": "accuracy", "auc": "AUC", "recall_at_fpr": "recall"}
    return [f"{words[figure]} {100 * gain:+.1f}" for figure, gain in gains.items() if gain is not None]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _beside(shown: str, ratio: float | None) -> str:
    """A figure with its ratio to the teacher's."""
    return shown if ratio is None else f"{shown} ({_times(ratio)})"


def _times(ratio: float) -> str:
    return f"1/{1 / ratio:,.0f}" if ratio < 1 / 1.5 else f"{ratio:.2f}x"


def _fates(summary: Mapping[str, Any]) -> str:
    """What became of each student in the latest generation; of one that was taken back since, that too."""
    lines, taken_back = [], summary["taken_back"]
    for name, student in summary["outcome"]["students"].items():
        since = taken_back.get(name, {}).get("generation") == summary["generation"]
        then = "taken back since; before that, " if since else ""
        lines.append(f"{name:<10} {then}{student['fate']}. {student['says']}".rstrip())
    return "\n".join([*lines, *(f"{name:<10} {back['says']}" for name, back in taken_back.items())])


def _devices(summary: Mapping[str, Any]) -> str:
    lines = []
    for population, devices in summary["devices"].items():
        lines.append(
            f"{population:<10} {devices['target']}, sha256 {devices['digest'][:12]}: "
            f"devices confirmed {devices['confirmed']} of {devices['devices']}"
        )
        answers = summary["answers"].get(population)
        if answers:
            same = "the same as" if answers["same"] else "NOT the same as"
            lines.append(
                f"{'':<10} {answers['device']} answered {answers['asked']} samples {same} the artefact "
                f"(largest difference {answers['largest_difference']:.1e})"
            )
    lines.append(f"wall       {summary['wall_s']:,.0f} s")
    return "\n".join(lines)
