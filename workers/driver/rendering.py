"""`run.json` as lines for a person. Pure: the same summary gives the same page, which is how the README's example is checked."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def render(summary: Mapping[str, Any], *, width: int = 120) -> str:
    """The page that a run ends with."""
    console = Console(width=width, color_system=None, force_terminal=False, no_color=True)
    with console.capture() as capture:
        for block in (_labels(summary), _figures(summary), _fates(summary), _devices(summary)):
            if block:
                console.print(block, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _labels(summary: Mapping[str, Any]) -> str:
    labels, learning = summary["labels"], summary["learning"]
    lines = [f"labels     {labels['rows_committed']:,} of {labels['rows_planned']:,} rows, {labels['rows_quarantined']:,} quarantined"]
    if learning:
        lines[0] += f"; the teacher was asked about {learning['teacher_rows']:,} in generation {summary['generation']}"
        if learning.get("rows_reused"):
            lines[0] += f"; {learning['rows_reused']:,} were known"
        if learning["rows_per_s"]:
            lines[0] += f", {learning['rows_per_s']:,.0f} labels/s"
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
    teacher = first["teacher"]
    table.add_row("teacher", *_row(teacher, teacher))
    for name, test in tests.items():
        table.add_row(f"{name} ({test['student']['quantisation']})", *_row(test["student"], teacher))
        control = test["control"]
        if control:
            table.add_row(f"  control, hard labels ({control['quantisation']})", *_row(control, teacher))
    return table


def _row(figures: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
    size, latency = figures["size_bytes"], figures["latency_p50_ms"]
    return [
        _share(figures["accuracy"]),
        _share(figures["auc"]),
        _share(figures["recall_at_fpr"]),
        _share(figures["agreement"]),
        _share(figures["ece"]),
        _beside(f"{size:,}" if size else "-", size, teacher["size_bytes"], same=figures is teacher),
        _beside(f"{latency:.2f}", latency, teacher["latency_p50_ms"], same=figures is teacher),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _beside(shown: str, ours: float | None, theirs: float | None, *, same: bool) -> str:
    """A figure with its ratio to the teacher's."""
    if same or not ours or not theirs:
        return shown
    ratio = f"1/{theirs / ours:,.0f}" if theirs > 1.5 * ours else f"{ours / theirs:.2f}x"
    return f"{shown} ({ratio})"


def _fates(summary: Mapping[str, Any]) -> str:
    students = summary["outcome"]["students"]
    return "\n".join(f"{name:<10} {student['fate']}. {student['says']}".rstrip() for name, student in students.items())


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
