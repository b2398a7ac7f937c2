"""Facts of runs that nobody ran, for the report: finished, half way, of many classes, with names that are attacks.

What a stage writes is made by the code that writes it where that is cheap (verdict, test); the answers in it are drawn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.budgets import GateSection
from pipeline.distill.losses import NO_LABEL
from pipeline.distill.metrics import log_softmax
from pipeline.labels.cost import Asked, LabelsCost, Spent, Training
from pipeline.labels.spread import EvidenceSpread, Histogram
from pipeline.report.facts import LabelCounts, RunFacts, Version
from pipeline.students.breakdown import break_down
from pipeline.students.evaluation import Evaluation, measure
from pipeline.students.gate import GateReport
from pipeline.students.gate_lines import budget_lines, shown_lines, slice_lines
from pipeline.students.samples import Samples

DIGITS = tuple("0123456789")
ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'


def samples_of(classes: Sequence[str], rows: int, seed: int, *, hard: bool) -> tuple[Samples, Any]:
    """Texts of several lengths, and a student's answers that are right about four times of five."""
    generator = np.random.default_rng(seed)
    truth_N = generator.integers(0, len(classes), rows)
    teacher_NK, said_NK = (
        log_softmax(generator.normal(size=(rows, len(classes))) + strength * np.eye(len(classes))[truth_N]) for strength in (5.0, 3.5)
    )
    samples = Samples(
        ids=tuple(map(str, range(rows))),
        inputs=tuple("x" * int(length) for length in generator.integers(5, 400, rows)),
        hard_N=truth_N if hard else np.full(rows, NO_LABEL),
        teacher_NK=teacher_NK.astype(np.float32),
        columns={"language": tuple(generator.choice(["de", "en", "pt"], rows))},
    )
    return samples, said_NK


def verdict(name: str, classes: Sequence[str], *, seed: int = 1, hard: bool = True, ships: bool = True, rows: int = 400) -> dict[str, Any]:
    samples, said_NK = samples_of(classes, rows, seed, hard=hard)
    assert samples.teacher_NK is not None
    truth_N = samples.hard_N if hard else samples.teacher_NK.argmax(axis=1)
    section = GateSection(accuracy_min=None if ships or not hard else 0.999, slice_right_min=0.5)
    found = Evaluation(
        **measure(said_NK, samples, classes=tuple(classes), positive=classes[1] if len(classes) == 2 else None),
        latency_p50_ms=0.05 * seed,
        latency_p99_ms=0.1 * seed,
        size_bytes=9_000 * seed,
    )
    breakdown = break_down(said_NK, truth_N, samples, classes=classes, rows_min=section.slice_rows_min)
    lines = [
        *budget_lines(found, section, labelled=hard, memory_bytes=50_000_000),
        *slice_lines(breakdown.slices, section, compared=False),
        *shown_lines(found),
    ]
    failed = "; ".join(line.says for line in lines if line.passed is False)
    report = GateReport(
        student=name,
        ships=not failed,
        basis="labels" if hard else "agreement with the teacher",
        summary=f"ships nothing: {failed}" if failed else "ships",
        lines=tuple(lines),
        candidate=found,
        incumbent=None,
        breakdown=breakdown,
    )
    export = {"quantisation": "int8", "reason": "", "temperature": 1.2, "parameters": 8970}
    return {"ships": report.ships, "report": report.to_json(), "memory_bytes": 50_000_000, "export": export}


def figures_on_test(classes: Sequence[str], *, control: bool = True, hard: bool = True, seed: int = 1) -> dict[str, Any]:
    samples, said_NK = samples_of(classes, 300, seed + 50, hard=hard)
    figures = measure(said_NK, samples, classes=tuple(classes), positive=None)
    figures = {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in figures.items()}
    student = figures | {"size_bytes": 9000 * seed, "latency_p50_ms": 0.05, "of_teacher": {"size_bytes": 0.02, "latency_p50_ms": 0.1}}
    over = {"accuracy": 0.03, "auc": None, "recall_at_fpr": None}
    return {
        "version": 1,
        "rows": 300,
        "student": student,
        "teacher": beside(figures, 0.06) | {"size_bytes": 450_000, "latency_p50_ms": 1.8},
        "control": beside(student, -0.03) if control else None,
        "student_minus_control": over if control else None,
    }


def beside(figures: dict[str, Any], points: float) -> dict[str, Any]:
    """Figures of somebody better or worse."""
    return figures | {name: min(1.0, figures[name] + points) for name in ("accuracy", "agreement") if figures[name] is not None}


def trained(*, seed: int = 1, warm: bool = False) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    history = [[step, float(3 * np.exp(-step / 80) + 0.4 + 0.05 * generator.random())] for step in range(3, 301, 3)]
    return {
        "version": 1, "steps": 300, "rows": 9500, "live_rows": 2400, "skipped_steps": 2, "seconds": 4.2, "warm": warm, "history": history,
    }  # fmt: skip


def cost_of(students: Sequence[str]) -> LabelsCost:
    spent = [
        Spent(of=of, rows=rows, rows_reused=120, teacher_s=s, saved_s=0.4)
        for of, rows, s in (("generation 1", 2400, 9.1), ("generation 2", 900, 3.3))
    ]
    asked = [
        Asked(training=Training(student=name, generation=1, teacher="t", new_rows=2400, rows=9500), once_s=9.1, each_time_s=36.0)
        for name in students
    ]
    teacher = Spent(of="teacher t", rows=3300, rows_reused=240, teacher_s=12.4, saved_s=0.8)
    return LabelsCost(
        rows=3300, rows_reused=240, teacher_s=12.4, saved_s=0.8, generations=tuple(spent), teachers=(teacher,), students=tuple(asked)
    )


def spread_of(*, ensemble: bool = True, hard: bool = True) -> EvidenceSpread:
    counts = tuple(int(400 * np.exp(-place / 5)) for place in range(24))
    falling, rising = Histogram(high=2.3, counts=counts), Histogram(high=1.0, counts=counts[::-1])
    return EvidenceSpread(
        rows=sum(counts),
        entropy_nats=falling,
        margin=rising,
        disagreement_nats=falling if ensemble else None,
        agreement=rising if hard else None,
        same_class=sum(counts) - 90 if hard else 0,
        unreadable=(),
    )


def finished(
    *,
    classes: Sequence[str] = DIGITS,
    students: Sequence[str] = ("base", "small"),
    name: str = "digits",
    control: bool = True,
    hard: bool = True,
    fate: str = "shipped",
) -> RunFacts:
    """Two generations that are over; the last student was refused in the second."""
    versions = []
    for generation in (1, 2):
        for place, student in enumerate(students):
            refused = generation == 2 and place == len(students) - 1
            seed = 3 * generation + place
            judged = verdict(student, classes, seed=seed, hard=hard, ships=not refused)
            versions.append(
                Version(
                    generation=generation,
                    student=student,
                    classes=tuple(classes),
                    fate="refused by the gate" if not judged["ships"] else fate,
                    says="phones: 3 of 3 confirmed" if judged["ships"] else judged["report"]["summary"],
                    trained=trained(seed=seed, warm=generation == 2),
                    verdict=judged,
                    test=figures_on_test(classes, control=control, hard=hard, seed=seed),
                )
            )
    return RunFacts(
        name=name,
        folder="digits",
        stage="done",
        live=False,
        error="",
        teacher="sklearn",
        made_at="2026-01-02 03:04 UTC",
        versions=tuple(versions),
        labels=LabelCounts(rows_planned=3300, rows_committed=3300, rows_quarantined=4),
        cost=cost_of(students),
        spread=spread_of(hard=hard),
    )


def unfinished() -> RunFacts:
    """A first generation that is still labelled; nothing is trained or judged."""
    return RunFacts(
        name="spam",
        folder="spam",
        stage="generation 1: label and train",
        live=True,
        error="",
        teacher="openai",
        made_at="2026-01-02 03:04 UTC",
        versions=(
            Version(generation=1, student="small", classes=("ham", "spam"), fate=None, says="", trained=None, verdict=None, test=None),
        ),
        labels=None,
        cost=None,
        spread=None,
    )


def hostile() -> RunFacts:
    """Whatever a user names is an attack: classes, students' sentences, slices, the run, the teacher, the stage."""
    facts = finished(classes=(ATTACK, "<b>2</b>", "'; drop"), name=ATTACK)
    versions = []
    for version in facts.versions:
        assert version.verdict is not None
        report = version.verdict["report"]
        slices = [{**each, "value": ATTACK, "by": "<u>"} for each in report["breakdown"]["slices"]]
        report = {**report, "summary": ATTACK, "breakdown": {**report["breakdown"], "slices": slices}}
        report["lines"] = [{**line, "says": ATTACK, "name": line["name"] + "<i>"} for line in report["lines"]]
        document = {**version.verdict, "report": report, "export": {**version.verdict["export"], "reason": ATTACK}}
        versions.append(Version(**{**vars_of(version), "says": ATTACK, "student": f"{version.student}{ATTACK}", "verdict": document}))
    changed = {"versions": tuple(versions), "teacher": ATTACK, "stage": ATTACK, "error": ATTACK, "unread": (ATTACK,), "folder": ATTACK}
    return RunFacts(**{**vars_of(facts), **changed})


def vars_of(value: Any) -> dict[str, Any]:
    """Fields of a frozen value, not copied."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
