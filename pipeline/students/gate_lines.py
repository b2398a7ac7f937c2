"""The lines of the gate's report: budgets, comparisons, and figures that are only shown. One that was not met says by how much.

Pure. Left to others: measuring (`evaluation`, `breakdown`), and what the lines together decide (`gate`).

Shapes: N samples, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.budgets import GateSection
from pipeline.distill import metrics
from pipeline.distill.paired import Z_ONE_SIDED_95, mcnemar_exact_p, newcombe_interval, pairs, samples_to_tell
from pipeline.students.answering import not_finite
from pipeline.students.evaluation import Evaluation
from pipeline.students.samples import Samples
from pipeline.students.slices import Slice, most_dropped

TIE = 1e-12
NOT_INFERIOR = "not inferior to the incumbent"
CLASSES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One line of the report. `passed` is None for a figure that decides nothing."""

    name: str
    value: float | None
    bound: float | None
    passed: bool | None
    says: str


def truth_of(gate: Samples) -> NDArray[np.int64]:
    """What counts as right: the label where every sample has one, else the teacher's first class."""
    if gate.labelled:
        return gate.hard_N
    assert gate.teacher_NK is not None
    return np.asarray(gate.teacher_NK.argmax(axis=1), dtype=np.int64)


def budget_lines(found: Evaluation, section: GateSection, *, labelled: bool, memory_bytes: int | None = None) -> list[GateLine]:
    """A budget that the samples cannot be held against fails: nobody asked for it to be forgotten. Budgets on labels are for labels.

    The median latency is told where it has a budget; where not, it is measured beside the teacher's, with the test split.
    """
    nan = float("nan")
    recall = f"recall at {100 * found.fixed_fpr:g}% false positives"
    lines = [
        _budget_line("accuracy", found.accuracy, section.accuracy_min, labelled=labelled),
        _budget_line("agreement", found.agreement, section.agreement_min, labelled=labelled),
        _budget_line("auc", found.auc, section.auc_min, labelled=labelled),
        _budget_line(recall, found.recall_at_fpr, section.recall_min, labelled=labelled),
        _budget_line("calibration error", found.ece, section.ece_max, labelled=labelled, at_least=False),
        _budget_line("latency_p50_ms", found.latency_p50_ms, section.latency_p50_ms, at_least=False),
        _budget_line("latency_p99_ms", found.latency_p99_ms, section.latency_p99_ms, at_least=False),
        _budget_line("size_bytes", found.size_bytes, section.size_max_bytes, at_least=False),
        _budget_line("memory_bytes", nan if memory_bytes is None else memory_bytes, section.memory_max_bytes, at_least=False),
    ]
    silent = {"latency_p50_ms"} if memory_bytes is not None else {"latency_p50_ms", "memory_bytes"}
    return [line for line in lines if line.bound is not None or line.name not in silent]


def _budget_line(name: str, value: float, bound: float | None, *, labelled: bool = True, at_least: bool = True) -> GateLine:
    if bound is None:
        return _shown(name, value)
    if np.isnan(value):
        says = f"{name} has a budget of {number(bound)}, and {_undefined(name, labelled)}"
        return GateLine(name=name, value=None, bound=float(bound), passed=False, says=says)
    passed = bool(value >= bound if at_least else value <= bound)
    short = f"{number(abs(value - bound))} {'below' if at_least else 'above'} its budget {number(bound)}"
    says = "" if passed else f"{name} {number(value)} is {short}"
    return GateLine(name=name, value=float(value), bound=float(bound), passed=passed, says=says)


def _undefined(name: str, labelled: bool) -> str:
    """Why there is no figure."""
    if name == "memory_bytes":
        return "nothing measured it"
    what = "answers of the teacher" if name == "agreement" else "labels of two classes" if labelled else "labels"
    return f"the samples have no {what} to measure it by"


def finite_line(log_probs_NK: NDArray[Any], gate: Samples) -> GateLine:
    """No budget: a file that answers with anything but numbers never ships."""
    strange, asked = not_finite(log_probs_NK), len(gate)
    says = f"{len(strange)} of {asked} answers are not finite, the first of them to sample {gate.ids[strange[0]]}" if len(strange) else ""
    return GateLine(name="finite answers", value=float(asked - len(strange)), bound=float(asked), passed=not len(strange), says=says)


def slice_lines(slices: Sequence[Slice], section: GateSection, *, compared: bool) -> list[GateLine]:
    """The worst slice, and the one that lost most where that has a budget and there is an incumbent."""
    lines = [_worst_slice_line(slices, section)]
    allowed, dropped = section.slice_drop_max, most_dropped(slices)
    if allowed is None or not compared:
        return lines
    name = "drop of a slice, at least"
    if dropped is None or dropped.drop_at_least is None or dropped.incumbent_right is None:
        says = f"{name} has a budget of {number(allowed)}, and no slice has {section.slice_rows_min} samples to measure it by"
        return [*lines, GateLine(name=name, value=None, bound=allowed, passed=False, says=says)]
    drop = dropped.drop_at_least
    told = f"{dropped.name}: {dropped.right} of {dropped.samples} right, the incumbent {dropped.incumbent_right}; {_of_all(slices)}"
    over = f"{number(drop - allowed)} above its budget {number(allowed)}"
    short = f"{dropped.name} lost {number(drop)} against the incumbent for sure ({_of_all(slices)}), {over}"
    return [*lines, GateLine(name=name, value=drop, bound=allowed, passed=drop <= allowed, says=told if drop <= allowed else short)]


def _worst_slice_line(slices: Sequence[Slice], section: GateSection) -> GateLine:
    bound, name = section.slice_right_min, "worst slice"
    if not slices:
        says = f"no slice has {section.slice_rows_min} samples"
        if bound is not None:
            says = f"{name} has a budget of {number(bound)}, and {says} to measure it by"
        return GateLine(name=name, value=None, bound=bound, passed=None if bound is None else False, says=says)
    missed = [] if bound is None else [each for each in slices if each.at_most < bound]
    if bound is not None and missed:
        worst = min(missed, key=lambda each: each.at_most)
        short = f"{number(bound - worst.at_most)} or more below its budget {number(bound)} ({_of_all(slices)})"
        says = f"{name} {worst.name} has {number(worst.share)} right, for sure at most {worst.at_most:.3f}, {short}"
        return GateLine(name=name, value=worst.share, bound=bound, passed=False, says=says)
    worst = slices[0]
    says = f"{worst.name}: {worst.right} of {worst.samples} right, 95 % {worst.low:.3f} to {worst.high:.3f}"
    return GateLine(name=name, value=worst.share, bound=bound, passed=None if bound is None else True, says=says)


def _of_all(slices: Sequence[Slice]) -> str:
    """How sure `for sure` is."""
    return f"95 % of all {len(slices)} slices together" if len(slices) > 1 else "95 %"


def shown_lines(found: Evaluation) -> list[GateLine]:
    """What decides nothing."""
    return [
        _shown("log loss, nats", found.log_loss_nats),
        _shown(f"recall of the worst class {found.worst_class}".rstrip(), found.worst_class_recall),
    ]


def comparison_lines(candidate_NK: NDArray[Any], incumbent_NK: NDArray[Any], gate: Samples, section: GateSection) -> list[GateLine]:
    truth_N = truth_of(gate)
    target_NK = metrics.one_hot(truth_N, candidate_NK.shape[1])
    if not gate.labelled:
        assert gate.teacher_NK is not None
        target_NK = np.exp(gate.teacher_NK)
    counts = pairs(metrics.right(candidate_NK, truth_N), metrics.right(incumbent_NK, truth_N))
    low, _ = newcombe_interval(counts, z=Z_ONE_SIDED_95)
    gain_nats = metrics.nll(incumbent_NK, target_NK) - metrics.nll(candidate_NK, target_NK)
    better = counts.difference > 0 or (counts.difference == 0 and gain_nats > TIE)
    estimate = f"{counts.difference:+.4f} against the incumbent ({counts.candidate} samples won, {counts.incumbent} lost, of {counts.n})"
    inferior = f"may be {-low:.4f} worse than the incumbent (95 % bound), margin {section.margin:.4f}"
    few = too_few(counts.n, section, share=(counts.both + counts.incumbent) / counts.n)
    tie = f", log loss {-gain_nats:+.4f} nats" if counts.difference == 0 else ""
    return [
        GateLine(
            name=NOT_INFERIOR,
            value=low,
            bound=-section.margin,
            passed=low > -section.margin,
            says="95 % bound" if low > -section.margin else inferior + (f"; {few}" if few else ""),
        ),
        GateLine(
            name="better by estimate",
            value=counts.difference,
            bound=0.0,
            passed=better,
            says=("" if better else "not better: ") + estimate + tie,
        ),
        GateLine(name="McNemar's exact p", value=mcnemar_exact_p(counts), bound=None, passed=None, says="shown, decides nothing"),
    ]


def too_few(samples: int, section: GateSection, *, share: float = 1.0) -> str | None:
    """That so many samples can tell no successor from a worse one, even if it answers as the incumbent does. None where they can.

    `share` is what both have right.
    """
    enough = samples_to_tell(share, margin=section.margin)
    if enough is None:
        return "with a margin of 0 only a student that is better for sure would pass; raise `gate.margin`"
    if samples >= enough:
        return None
    return f"with {samples:,} samples identical answers would not pass; {enough:,} do, or raise `gate.margin`"


def foreign_classes(found: Sequence[str] | None, classes: Sequence[str]) -> str | None:
    """Why answers over these classes can't be compared with ours; None where they can, in whatever order they come."""
    if found is None or set(found) == set(classes):
        return None
    parts = [(word, _only(*both)) for word, both in (("without", (classes, found)), ("with", (found, classes)))]
    return f"the incumbent's classes are others, {', '.join(f'{word} {names}' for word, names in parts if names)}"


def incomparable_line(why: str, section: GateSection) -> GateLine:
    """In place of a comparison."""
    says = f"compared with nothing: {why}; the budgets decide alone"
    return GateLine(name=NOT_INFERIOR, value=None, bound=-section.margin, passed=None, says=says)


def _only(names: Sequence[str], others: Sequence[str]) -> str:
    """Those that are not among the others: the first few of them."""
    only = [repr(name) for name in names if name not in set(others)]
    return " ".join(only[:CLASSES_SHOWN] + [f"and {len(only) - CLASSES_SHOWN} more"] * (len(only) > CLASSES_SHOWN))


def _shown(name: str, value: float) -> GateLine:
    return GateLine(name=name, value=None if np.isnan(value) else float(value), bound=None, passed=None, says="")


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
