"""From trained weights to a verdict: export to the file that ships, and let the gate judge that file.

The teacher answers for the validation samples here, in this process, once. What the device needs later (temperature, golden samples,
memory) is measured on the exported file and kept in verdict.json.
"""

import hashlib
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import onnxruntime

from pipeline.distill.losses import NO_LABEL
from pipeline.distill.metrics import log_softmax, threshold_at_fpr
from pipeline.inputs import as_read
from pipeline.loop.generation import Opening
from pipeline.releases.lineage import LineageEntry
from pipeline.sources import open_source
from pipeline.students.checkpoint import load_weights
from pipeline.students.drawing import drawn
from pipeline.students.evaluation import Candidate, measure
from pipeline.students.export import Exported, export_student
from pipeline.students.faults import ClassesChangedError
from pipeline.students.gate import judge
from pipeline.students.graph import Graph
from pipeline.students.models import StudentSpec, build_student
from pipeline.students.onnx_file import GRAPH
from pipeline.students.samples import Samples, Validation, read_validation
from workers.driver.answers import validation_answered
from workers.driver.context import RunContext
from workers.driver.folder import RunFolder, read_json, write_json
from workers.driver.records import Incumbent, classes_of, section_of, student_files
from workers.driver.releasing import lineage_of
from workers.driver.standing import TakenBack, digest_of, standing_of, start_of, taken_back
from workers.footprint import memory_of

GOLDEN_SAMPLES = 16
GOLDEN_DIGITS = 3
"""A hundredth of the tolerance: more would be bytes that are others in every release."""


def judge_student(context: RunContext, opening: Opening, name: str) -> dict[str, Any]:
    """Export and judge one student; writes verdict.json last and returns it. Raises ClassesChangedError."""
    _check_classes(context, opening.generation, name)
    files = student_files(context.folder, opening.generation, name)
    teacher = context.teacher
    validation = validation_of(context)
    student = build_student(student_spec(context, opening.generation, name))
    student.module.load_state_dict(load_weights(files.weights))
    incumbent = standing_of(context.folder, name)
    before = incumbent_candidate(context.folder, name, incumbent) if incumbent else None
    exported = export_student(
        name=name,
        student=student,
        fit=validation.fit,
        choose=validation.choose,
        out=files.export,
        budget=context.run.gate.int8_loss_max,
        incumbent=before.graph if before and before.classes == context.run.classes else None,
    )
    memory_bytes = memory_of(exported.graph, kind=exported.kind)
    report = judge(
        student=name,
        candidate=candidate_of(exported),
        incumbent=before,
        gate=validation.gate,
        section=context.run.gate,
        classes=context.run.classes,
        positive=context.run.positive,
        clock=time.perf_counter,
        memory_bytes=memory_bytes,
    )
    lineage = lineage_of(context.folder)
    lineage.append(
        LineageEntry(
            what="judged",
            student=name,
            generation=opening.generation,
            parent=digest_of(start_of(context.folder, name)),
            teacher=teacher.fingerprint,
            digest=_digest(exported),
            passed=report.ships,
            at_unix_s=int(time.time()),
        )
    )
    verdict = {
        "ships": report.ships,
        "why": report.summary,
        "says": "\n  ".join([report.table(), *exported.notes, *_notes(context, lineage.gate_uses(name), name, validation, incumbent)]),
        "report": report.to_json(),
        "teacher": teacher.fingerprint,
        "memory_bytes": memory_bytes,
        "golden": golden_samples(exported, validation.choose),
        "choose": _on_choose(context, exported, validation.choose),
        "threshold": _threshold(context, exported, validation.choose),
        "runtime": _runtime(exported),
        "export": _export_facts(exported),
    }
    write_json(files.verdict, verdict)
    return verdict


def _notes(context: RunContext, uses: int, student: str, validation: Validation, incumbent: Incumbent | None) -> list[str]:
    back = taken_back(context.folder, student)
    stood = [_stood(back, incumbent)] if back else []
    return [f"the gate's samples have now decided {uses} time(s) about {student}", *validation.left_out(), *stood]


def _stood(back: TakenBack, incumbent: Incumbent | None) -> str:
    """Against what a successor of a release that was taken back was judged."""
    gone = f"generation {back.version.generation} was taken back ({back.yank.reason})"
    if incumbent is None:
        return f"compared with nothing: {gone}, and there is none before it"
    if incumbent.generation == back.version.generation:
        return f"compared with what devices run: {gone}, and some run it still"
    return f"compared with generation {incumbent.generation}: {gone}, and no device is known to run it"


def validation_of(context: RunContext) -> Validation:
    """The three validation parts with the teacher's answers."""
    validation = read_validation(open_source(context.run.validation, base=context.base), classes=context.run.classes)
    return validation_answered(validation, context.teacher, context.folder.root / "answers")


def student_spec(context: RunContext, generation: int, name: str) -> StudentSpec:
    """What a student of a generation is made of."""
    run, section = context.run, section_of(context.folder, generation, name)
    return StudentSpec(name=name, section=section, classes=run.classes, kind=run.stream.kind, base=context.base, seed=run.seed)


def candidate_of(exported: Exported) -> Candidate:
    return Candidate(graph=exported.graph, kind=exported.kind, temperature=exported.temperature)


def incumbent_candidate(folder: RunFolder, student: str, incumbent: Incumbent) -> Candidate:
    """A version that devices run, with its own temperature and classes."""
    export = read_json(incumbent.files.verdict)["export"]
    classes = classes_of(folder, incumbent.generation, student)
    return Candidate(graph=incumbent.files.export / GRAPH, kind=export["kind"], temperature=export["temperature"], classes=classes)


def _check_classes(context: RunContext, generation: int, name: str) -> None:
    """The run file may have changed between training and judging."""
    trained_for = classes_of(context.folder, generation, name)
    if trained_for not in (None, context.run.classes):
        raise ClassesChangedError(name, trained_for, context.run.classes)


def golden_samples(exported: Exported, samples: Samples) -> list[dict[str, Any]]:
    """Inputs with the answers of this very file, which a device must give too before it trusts it.

    Of a text, no more than the student reads; of an answer, the digits that matter beside the tolerance. Every device fetches them.
    """
    inputs = [as_read(value, kind=exported.kind, width=exported.width) for value in drawn(samples, GOLDEN_SAMPLES).inputs]
    graph = Graph(exported.graph, kind=exported.kind)
    probabilities = np.exp(log_softmax(graph.logits(inputs) / exported.temperature))
    return [
        {"input": value if isinstance(value, str) else list(value), "probabilities": [round(float(p), GOLDEN_DIGITS) for p in row]}
        for value, row in zip(inputs, probabilities, strict=True)
    ]


def _on_choose(context: RunContext, exported: Exported, samples: Samples) -> dict[str, Any]:
    """Figures by which two run files may be compared: they decide about no release, and use nothing of the gate's samples up."""
    run = context.run
    log_probs_NK = log_softmax(Graph(exported.graph, kind=exported.kind).logits(samples.inputs) / exported.temperature)
    figures = measure(log_probs_NK, samples, classes=run.classes, positive=run.positive, fixed_fpr=run.gate.fixed_fpr)
    return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in figures.items()}


def _threshold(context: RunContext, exported: Exported, samples: Samples) -> dict[str, float] | None:
    """From which probability on this file says the positive class, chosen on labelled samples that the gate does not judge by."""
    run = context.run
    if run.positive is None:
        return None
    place = run.classes.index(run.positive)
    known_N = samples.hard_N != NO_LABEL
    log_probs_NK = log_softmax(Graph(exported.graph, kind=exported.kind).logits(samples.inputs) / exported.temperature)
    score_N, positive_N = np.exp(log_probs_NK[known_N, place]), samples.hard_N[known_N] == place
    found = threshold_at_fpr(score_N, positive_N, fpr_max=run.gate.fixed_fpr)
    return None if found is None or found > 1 else {"probability": found, "max_false_positive_rate": run.gate.fixed_fpr}


def _export_facts(exported: Exported) -> dict[str, Any]:
    return {
        "kind": exported.kind,
        "input_name": exported.input_name,
        "width": exported.width,
        "temperature": exported.temperature,
        "temperature_basis": exported.temperature_basis,
        "quantisation": exported.quantisation,
        "int8_share": exported.int8_share,
        "loss_basis": exported.loss_basis,
        "reason": exported.reason,
        "parameters": exported.parameters,
        "parity": asdict(exported.parity),
        "codes_kept": exported.codes_kept,
    }


def _runtime(exported: Exported) -> dict[str, Any]:
    """What the file needs to run, and what it was judged with."""
    model = onnx.load(exported.graph, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "ir_version": model.ir_version, "onnxruntime": onnxruntime.__version__}


def _digest(exported: Exported) -> str:
    return hashlib.sha256(exported.graph.read_bytes() + exported.weights.read_bytes()).hexdigest()
