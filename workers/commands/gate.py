"""`kdpipe gate`: the gate alone, on any ONNX file."""

import contextlib
import json
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pipeline.students.evaluation import Candidate
    from pipeline.students.samples import Samples, Validation
    from pipeline.teachers import Teacher
    from workers.driver.folder import RunFolder
    from workers.driver.request import RunRequest

REFUSED = 6


class Part(StrEnum):
    """Of validation, that a file may be judged on."""

    CHOOSE = "choose"
    GATE = "gate"


def gate(
    graph: Annotated[
        Path,
        typer.Argument(metavar="GRAPH.onnx", exists=True, dir_okay=False, help="The file to judge; weights beside it where it names them."),
    ],
    runfile: Annotated[str, typer.Argument(metavar="RUNFILE|RECIPE", help="Whose validation, teacher and budgets count.")],
    directory: Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Folder of the run; runs/NAME by default.")] = None,
    incumbent: Annotated[
        Path | None,
        typer.Option(
            "--incumbent",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="What devices run now, a graph or a bundle; in a run's folder, what its devices run by default.",
        ),
    ] = None,
    no_incumbent: Annotated[bool, typer.Option("--no-incumbent", help="Compare with nothing.")] = False,
    part: Annotated[Part, typer.Option("--part", help="Of validation. Looks at `choose` use nothing up: choose by those.")] = Part.GATE,
    student: Annotated[
        str | None,
        typer.Option("--student", metavar="NAME", help="Whose use of the gate's samples this is, where there are several."),
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0.01, help="Of the answers; by default fitted.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Judge an ONNX file as a run would: exit 0 if it may ship, 6 if not. In a run's folder this counts as a use of the gate's samples."""
    from pipeline.errors import ConfigError
    from pipeline.students.gate import judge
    from pipeline.teachers import load_teacher
    from workers.driver.folder import Holder
    from workers.driver.request import RunRequest
    from workers.footprint import memory_of

    if incumbent and no_incumbent:
        raise ConfigError("--no-incumbent", f"given beside --incumbent {incumbent}", "one of the two", "leave one out")
    request = RunRequest.of(runfile, directory)
    run, folder = request.run, request.folder if request.folder.origin_file.exists() else None
    name = _whose(student, run.students) if folder or student else graph.name
    counts = folder is not None and part is Part.GATE
    with contextlib.ExitStack() as held:
        if folder and counts:
            held.enter_context(Holder(folder))  # from here on, so that no verdict is seen that can't be counted
        teacher = load_teacher(run.teacher, classes=run.classes, base=request.base)
        validation = _validation(request, folder, teacher)
        before, against = None, "compared with nothing, as was asked"
        if not no_incumbent:
            scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="kdpipe-gate-")))
            before, against = _incumbent(incumbent, folder, name, run.stream.kind, validation.fit, run.classes, scratch)
        report = judge(
            student=name,
            candidate=_candidate(graph, run.stream.kind, validation.fit, temperature, len(run.classes)),
            incumbent=before,
            gate=validation.gate if part is Part.GATE else validation.choose,
            section=run.gate,
            classes=run.classes,
            positive=run.positive,
            clock=time.perf_counter,
            memory_bytes=memory_of(graph, kind=run.stream.kind),
        )
        uses = _count_use(folder, graph, name, teacher.fingerprint, passed=report.ships) if folder and counts else 0
    notes = [against, *validation.left_out()]
    if part is Part.CHOOSE:
        notes.append("judged on `choose`, which uses nothing of the gate's samples up: a choice, no verdict")
    if counts:
        notes.append(f"the gate's samples have now decided {uses} time(s) about {name}")
    typer.echo(json.dumps({**report.to_json(), "part": part}) if as_json else report.table())
    typer.echo("\n".join(f"  {note}" for note in notes), err=as_json)
    if not report.ships:
        raise typer.Exit(REFUSED)


def _validation(request: "RunRequest", folder: "RunFolder | None", teacher: "Teacher") -> "Validation":
    """The run file's, with what the teacher says; in a run's folder, what the run asked it is not asked again."""
    from pipeline.sources import open_source
    from pipeline.students.samples import read_validation
    from workers.driver.answers import validation_answered

    read = read_validation(open_source(request.run.validation, base=request.base), classes=request.run.classes)
    if folder is not None:
        return validation_answered(read, teacher, folder.root / "answers")
    return read.answered(lambda samples: samples.with_teacher(teacher))


def _whose(student: str | None, known: "Collection[str]") -> str:
    """The student of the run file that a use of the gate's samples counts for. Raises ConfigError where that is not said."""
    from pipeline.errors import ConfigError

    if student in known:
        return str(student)
    if student is None and len(known) == 1:
        return next(iter(known))
    found = "not given" if student is None else f"no student {student!r:.60}"
    raise ConfigError("--student", found, f"one of: {', '.join(sorted(known))}", "uses of the gate's samples are counted by student")


def _incumbent(
    file: Path | None, folder: "RunFolder | None", student: str, kind: str, fit: "Samples", classes: "Sequence[str]", scratch: Path
) -> "tuple[Candidate | None, str]":
    """What the file is held against, read as devices read it, and a sentence that says so. `scratch` may be written to."""
    from dataclasses import replace

    if file is None and folder is None:
        return None, "compared with nothing: outside of a run's folder, `--incumbent FILE` names what devices run"
    if file is None and folder is not None:
        from workers.driver.judging import incumbent_candidate
        from workers.driver.standing import standing_of

        standing = standing_of(folder, student)
        if standing is None:
            return None, f"compared with nothing: no version of {student} stands yet"
        return incumbent_candidate(
            folder, student, standing
        ), f"compared with generation {standing.generation} of {student}, as a run would"
    assert file is not None
    found = _released(file, scratch)
    if found is not None:
        return found, f"compared with {file}, at temperature {found.temperature:.4g} as its manifest says"
    fitted = _candidate(file, kind, fit, None, len(classes))
    return replace(
        fitted, classes=tuple(classes)
    ), f"compared with {file}, at temperature {fitted.temperature:.4g}: fitted, as it has no manifest"


def _released(file: Path, scratch: Path) -> "Candidate | None":
    """A bundle, or a graph with its manifest beside it as a device keeps them; None for a graph alone. Raises BundleInvalidError."""
    import zipfile

    from pipeline.files import read_bounded
    from pipeline.releases.bundle import MAX_JSON_BYTES, MEMBERS, open_bundle
    from pipeline.releases.manifest import parse_manifest
    from pipeline.students.evaluation import Candidate

    graph = file
    if zipfile.is_zipfile(file):
        bundle = open_bundle(file)
        bundle.extract(scratch)
        graph, manifest = scratch / MEMBERS[2], bundle.manifest
    elif (beside := file.with_name(MEMBERS[0])).is_file():
        manifest = parse_manifest(read_bounded(beside, MAX_JSON_BYTES))
    else:
        return None
    return Candidate(graph=graph, kind=manifest.input.kind, temperature=manifest.temperature, classes=manifest.classes)


def _candidate(graph: Path, kind: str, fit: "Samples", temperature: float | None, classes: int) -> "Candidate":
    """Raises GraphInvalidError for what is no graph of this kind, or does not answer with a logit for each class; AnswersNotFiniteError."""
    from pipeline.students.answering import are_probabilities
    from pipeline.students.evaluation import Candidate
    from pipeline.students.graph import Graph, GraphInvalidError
    from pipeline.students.temperature import fitted_temperature

    opened = Graph(graph, kind=kind)  # type: ignore[arg-type]
    logits_NK = opened.logits(fit.inputs)
    if logits_NK.shape[1] != classes:
        raise GraphInvalidError(str(graph), f"answers for {logits_NK.shape[1]} classes", f"the {classes} of the run file")
    if are_probabilities(logits_NK):
        raise GraphInvalidError(str(graph), "answers with probabilities", "logits: devices take a softmax of them", "cut the Softmax")
    fitted = temperature or fitted_temperature(graph.name, logits_NK, fit).temperature
    return Candidate(graph=graph, kind=opened.kind, temperature=fitted)


def _count_use(folder: "RunFolder", graph: Path, student: str, teacher: str, *, passed: bool) -> int:
    """Write into the run's lineage that the gate's samples were used about this student; how often they were."""
    import hashlib

    from pipeline.releases.lineage import LineageEntry
    from pipeline.teachers.onnx import external_files
    from workers.driver.releasing import lineage_of

    digest = hashlib.sha256(b"".join(file.read_bytes() for file in (graph, *external_files(graph)))).hexdigest()
    lineage = lineage_of(folder)
    lineage.append_again(
        LineageEntry(
            what="judged",
            student=student,
            generation=0,
            parent=None,
            teacher=teacher,
            digest=digest,
            passed=passed,
            at_unix_s=int(time.time()),
        )
    )
    return lineage.gate_uses(student)
