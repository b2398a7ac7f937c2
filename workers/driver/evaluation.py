"""Figures on the test split: of the teacher, of each student's shipped file, and of its honest control.

The test split decides nothing; it is looked at once a version, when its generation is closed, and the figures are kept in
test.json beside it. Teacher, student and control are timed in turn, sample by sample, so that ratios of their latencies hold.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.sources import SourceSpec, open_source
from pipeline.students.evaluation import Candidate, evaluate, measure
from pipeline.students.graph import Graph
from pipeline.students.latency import latencies_in_turn_ms
from pipeline.students.samples import Samples, SamplesMissingError, read_samples
from pipeline.teachers.size import teacher_bytes
from workers.driver.answers import asked_once
from workers.driver.context import RunContext
from workers.driver.control import ControlSpec, control_result
from workers.driver.folder import read_json, write_json
from workers.driver.judging import student_spec
from workers.driver.records import StudentFiles, section_of, student_files
from workers.driver.worker_logs import link_ray_logs

VERSION = 1
LATENCY_CALLS = 100
CONTROL_GENERATIONS = 4
"""A control takes as many steps as its student has had, up to so many generations' worth: it learnt its few rows by heart long before."""
BESIDE_THE_TEACHER = ("size_bytes", "latency_p50_ms")
BESIDE_THE_CONTROL = ("accuracy", "auc", "recall_at_fpr")


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
    if context.controls.waiting():
        link_ray_logs(context.folder.logs)


def test_figures(context: RunContext, files: StudentFiles, *, steps: int) -> dict[str, Any] | None:
    """Figures of one version that has had `steps` steps, of its teacher and of its control; None where the run file names no test split.

    Kept once made; made again for a control that has come since.
    """
    if context.run.test is None:
        return None
    known: dict[str, Any] | None = read_json(files.test)
    control = control_result(files.control)
    if known is None or known.get("version") != VERSION or (known["control"] is None) != (control is None):
        known = {"version": VERSION, **_measured(context, files, control, steps)}
        write_json(files.test, known)
    return known


def _measured(context: RunContext, files: StudentFiles, control: dict[str, Any] | None, steps: int) -> dict[str, Any]:
    run, teacher = context.run, context.teacher
    assert run.test is not None
    read = read_samples(open_source(run.test, base=context.base), classes=run.classes)
    asked = asked_once(read, teacher, context.folder.root / "answers")
    samples = asked.answered()
    if not len(samples):
        raise SamplesMissingError("it that the teacher answers", {"rows": len(read)}, split="test", fault=asked.fault)
    exports = {"student": (files.export, read_json(files.verdict)["export"] | {"steps": steps})}
    if control:
        exports["control"] = (files.control, control)
    found = {who: _file_figures(context, folder / "graph.onnx", export, samples) for who, (folder, export) in exports.items()}
    found["teacher"] = _teacher_figures(context, samples)
    kind = pa.string() if run.stream.kind == "text" else pa.list_(pa.float32())
    answerers: dict[str, Callable[[Any], object]] = {"teacher": lambda sample: teacher.log_probs(pa.array([sample], kind))}
    for who, (folder, export) in exports.items():
        answerers[who] = Graph(folder / "graph.onnx", kind=export["kind"]).answer
    for who, took_ms in latencies_in_turn_ms(answerers, samples.inputs, clock=time.perf_counter, calls=LATENCY_CALLS).items():
        found[who] |= {f"latency_p{p}_ms": float(np.percentile(took_ms, p)) for p in (50, 99)}
    for who in exports:
        found[who]["of_teacher"] = {name: _ratio(found[who][name], found["teacher"][name]) for name in BESIDE_THE_TEACHER}
    over = {name: _difference(found["student"][name], found["control"][name]) for name in BESIDE_THE_CONTROL} if control else None
    return {"rows": len(samples), "control": None, **found, "student_minus_control": over}


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _difference(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _file_figures(context: RunContext, graph: Path, export: dict[str, Any], samples: Samples) -> dict[str, Any]:
    run = context.run
    evaluation = evaluate(
        Candidate(graph=graph, kind=export["kind"], temperature=export["temperature"]),
        samples,
        classes=run.classes,
        positive=run.positive,
        clock=time.perf_counter,
        fixed_fpr=run.gate.fixed_fpr,
        latency_calls=1,  # it is timed with the others
    )
    return {**evaluation.to_json(), "quantisation": export["quantisation"], "steps": export["steps"]}


def _teacher_figures(context: RunContext, samples: Samples) -> dict[str, Any]:
    run = context.run
    assert samples.teacher_NK is not None
    figures = measure(samples.teacher_NK, samples, classes=run.classes, positive=run.positive, fixed_fpr=run.gate.fixed_fpr)
    return {
        **{key: None if isinstance(value, float) and np.isnan(value) else value for key, value in figures.items()},
        "size_bytes": teacher_bytes(run.teacher, base=context.base),
    }
