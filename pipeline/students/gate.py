"""The gate: may this file replace what devices run now?

It judges the exported file in onnxruntime with one thread, on the `gate` part of the validation split. Ship = every answer finite, every
budget met, not inferior to the incumbent (lower 95 % bound of the paired difference above -margin, Newcombe) and better by estimate.
With hard labels "right" means the label, and is counted on the samples that have one; where none has, it means the teacher's first
class, and the report says so. McNemar's exact p is shown and never decides. A candidate without an incumbent ships when its budgets are
met. The worst slice is always named; it decides where it has a budget.

Answers are compared by the names of their classes: an incumbent that has the same ones in another order is read in ours. One that has
others, or does not eat these samples, can't be compared; that is said, and the budgets decide alone.

Pure but for the clock it is given, to measure latency. Left to others: counting uses of `gate` (`pipeline.releases.lineage`), memory of
a real process (`workers.footprint`).

Shapes: N samples, M of them judged by what is right, K classes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.budgets import GateSection
from pipeline.distill.losses import NO_LABEL
from pipeline.inputs import InputShapeError
from pipeline.students.breakdown import Breakdown, break_down
from pipeline.students.evaluation import Candidate, Evaluation, evaluate, evaluate_answers, measure
from pipeline.students.gate_lines import (
    GateLine,
    budget_lines,
    comparison_lines,
    finite_line,
    foreign_classes,
    incomparable_line,
    number,
    shown_lines,
    slice_lines,
    truth_of,
)
from pipeline.students.samples import Samples

__all__ = ["Candidate", "Evaluation", "GateLine", "GateReport", "evaluate", "judge", "measure"]

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The verdict with its evidence."""

    student: str
    ships: bool
    basis: str
    """`labels`, or `agreement with the teacher` where the samples have no labels."""
    summary: str
    lines: tuple[GateLine, ...]
    candidate: Evaluation
    incumbent: Evaluation | None
    breakdown: Breakdown
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        return {
            **{key: value for key, value in asdict(self).items() if key not in ("candidate", "incumbent", "breakdown")},
            "candidate": self.candidate.to_json(),
            "incumbent": self.incumbent.to_json() if self.incumbent else None,
            "breakdown": self.breakdown.to_json(),
        }

    def table(self) -> str:
        """The report for people, a line each."""
        rows = [("", "line", "value", "bound", "")]
        for line in self.lines:
            mark = {True: "pass", False: "FAIL", None: ""}[line.passed]
            rows.append((mark, line.name, number(line.value), number(line.bound), line.says))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        body = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows]
        return "\n".join([f"gate of {self.student}: {self.summary}", *body])


def judge(
    *,
    student: str,
    candidate: Candidate,
    incumbent: Candidate | None,
    gate: Samples,
    section: GateSection,
    classes: tuple[str, ...],
    positive: str | None,
    clock: Callable[[], float],
    memory_bytes: int | None = None,
) -> GateReport:
    """Decide. `gate.teacher_NK` must hold the teacher's answers where no sample has a label. Raises GraphInvalidError."""
    rows_M = np.flatnonzero(gate.hard_N != NO_LABEL)
    judged = gate.take(rows_M.tolist()) if len(rows_M) else gate
    rows_M = rows_M if len(rows_M) else np.arange(len(gate))
    if not judged.labelled and gate.teacher_NK is None:
        raise ValueError("samples without labels need the teacher's answers to be judged")

    def look(what: Candidate) -> tuple[Evaluation, NDArray[np.float64]]:
        return evaluate_answers(what, gate, classes=classes, positive=positive, clock=clock, fixed_fpr=section.fixed_fpr)

    found, log_probs_NK = look(candidate)
    before, before_NK, incomparable = None, None, foreign_classes(incumbent.classes, classes) if incumbent else None
    if incumbent and not incomparable:
        try:
            before, before_NK = look(incumbent)
        except InputShapeError as error:
            incomparable = f"the incumbent does not eat these samples ({error.found}; it takes {error.expected})"
    said_MK, said_before_MK = log_probs_NK[rows_M], None if before_NK is None else before_NK[rows_M]
    breakdown = break_down(said_MK, truth_of(judged), judged, said_before_MK, classes=classes, rows_min=section.slice_rows_min)
    lines = [
        finite_line(log_probs_NK, gate),
        *budget_lines(found, section, labelled=judged.labelled, memory_bytes=memory_bytes),
        *slice_lines(breakdown.slices, section, compared=before is not None),
        *shown_lines(found),
    ]
    if said_before_MK is not None:
        lines += comparison_lines(said_MK, said_before_MK, judged, section)
    if incomparable:
        lines.append(incomparable_line(incomparable, section))
    failed = [line for line in lines if line.passed is False]
    basis = "labels" if judged.labelled else "agreement with the teacher"
    keeps = "keeps the incumbent" if incumbent else "ships nothing"
    verdict = f"{keeps}: " + "; ".join(line.says for line in failed) if failed else "ships"
    unlabelled = f"{len(gate) - len(judged)} of {len(gate)} samples have no label: what is right is counted on the others"
    basis_note = "" if gate.labelled else unlabelled if judged.labelled else "no labels: judged by agreement with the teacher alone"
    notes = [note for note in (basis_note, incomparable and f"compared with nothing: {incomparable}") if note]
    note = f" ({'; '.join(notes)})" if notes else ""
    return GateReport(
        student=student,
        ships=not failed,
        basis=basis,
        summary=verdict + note,
        lines=tuple(lines),
        candidate=found,
        incumbent=before,
        breakdown=breakdown,
    )
