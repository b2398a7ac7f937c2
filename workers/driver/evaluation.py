"""Figures on the test split: of the teacher, of each student's shipped file, and of its honest control.

The test split decides nothing; it is looked at once a version, when its generation is closed, and the figures are kept in
test.json beside it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.sources import SourceSpec, open_source
from pipeline.students.evaluation import Candidate, evaluate, measure
from pipeline.students.samples import Samples, read_samples
from pipeline.teachers import Teacher
from workers.driver.answers import answered
from workers.driver.context import RunContext
from workers.driver.control import ControlSpec, control_result
from workers.driver.folder import read_json, write_json
from workers.driver.judging import student_spec
from workers.driver.records import StudentFiles, section_of, student_files

LATENCY_CALLS = 100
CONTROL_GENERATIONS = 4
"""A control takes as many steps as its student has had, up to so many generations' worth: it learnt its few rows by heart long before."""


def begin_controls(context: RunContext, generation: int, steps: Mapping[str, int]) -> None:
    """Train the controls of these students in the background: student -> steps it has had. Nothing without hard labels."""
    run = context.run
    if run.labelled is None or run.test is None:
        return
    for name, count in steps.items():
        context.controls.start(
            ControlSpec(
                student=student_spec(context, generation, name),
                steps=min(count, CONTROL_GENERATIONS * section_of(context.folder, generation, name).steps),
                labelled=SourceSpec(section=run.labelled, base=context.base),
                validation=SourceSpec(section=run.validation, base=context.base),
                out=student_files(context.folder, generation, name).control,
            )
        )


def test_figures(context: RunContext, files: StudentFiles) -> dict[str, Any] | None:
    """Figures of one version, its teacher and its control; None where the run file names no test split. Kept once made."""
    if context.run.test is None:
        return None
    known: dict[str, Any] | None = read_json(files.test)
    if known is None:
        teacher = context.teacher
        samples = read_samples(open_source(context.run.test, base=context.base), classes=context.run.classes)
        samples = answered(samples, teacher, context.folder.root / "answers")
        export = read_json(files.verdict)["export"]
        control = control_result(files.control)
        known = {
            "rows": len(samples),
            "teacher": _teacher_figures(context, teacher, samples),
            "student": _file_figures(context, files.export / "graph.onnx", export, samples),
            "control": _file_figures(context, files.control / "graph.onnx", control, samples) if control else None,
        }
        write_json(files.test, known)
    return known


def _file_figures(context: RunContext, graph: Path, export: dict[str, Any], samples: Samples) -> dict[str, Any]:
    run = context.run
    evaluation = evaluate(
        Candidate(graph=graph, kind=export["kind"], temperature=export["temperature"]),
        samples,
        classes=run.classes,
        positive=run.positive,
        clock=time.perf_counter,
        fixed_fpr=run.gate.fixed_fpr,
    )
    return {**evaluation.to_json(), "quantisation": export["quantisation"], "steps": export.get("steps")}


def _teacher_figures(context: RunContext, teacher: Teacher, samples: Samples) -> dict[str, Any]:
    run = context.run
    assert samples.teacher_NK is not None
    figures = measure(samples.teacher_NK, samples, classes=run.classes, positive=run.positive, fixed_fpr=run.gate.fixed_fpr)
    kind = pa.string() if run.stream.kind == "text" else pa.list_(pa.float32())
    took_ms = []
    for value in samples.inputs[:LATENCY_CALLS]:
        began_s = time.perf_counter()
        teacher.log_probs(pa.array([value], kind))
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    path = context.base / run.teacher.path if run.teacher.path else None
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path and path.is_dir() else None
    return {
        **{key: None if isinstance(value, float) and np.isnan(value) else value for key, value in figures.items()},
        "latency_p50_ms": float(np.percentile(took_ms, 50)),
        "latency_p99_ms": float(np.percentile(took_ms, 99)),
        "size_bytes": size,
    }
