"""The plan of a run, before it does anything: what continues, what starts afresh, what is labelled, what it costs."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pipeline.config import StudentSection
from pipeline.distill.losses import HINTS, NO_LABEL, is_approximate
from pipeline.errors import DataError
from pipeline.inputs import InputShapeError, encode
from pipeline.labels.codecs import codec_of
from pipeline.labels.store import open_store
from pipeline.labels.verify import LabelsSummary, summarise
from pipeline.loop.generation import Fate, Opening, amended, opening, wanted_digests
from pipeline.recipes import prepare_run
from pipeline.recipes.prepared import MARKER
from pipeline.sources import open_source
from pipeline.students.answering import logits_of
from pipeline.students.gate_lines import too_few
from pipeline.students.hint import HintImpossibleError
from pipeline.students.lessons import check_section
from pipeline.students.models import MODELS, StudentSpec, build_student
from pipeline.students.onnx_file import to_onnx
from pipeline.students.samples import Samples, SamplesMissingError, SampleUnfitError, read_samples, read_validation
from pipeline.students.scaling import TRAINER
from workers.driver.folder import read_json
from workers.driver.labels import labelling_of, store_url
from workers.driver.records import devices_gone, incumbent_of, open_generation, outcomes, sources_of, trained_digests, trained_in
from workers.driver.request import RunRequest
from workers.driver.standing import start_of, taken_back, what_next
from workers.fetch import cache_folder, fetch
from workers.labelling import Labelling
from workers.labelling.faults import TeacherChangedError


def plan_text(request: RunRequest, *, fingerprint: Callable[[], str]) -> str:
    """A few lines for a person. Reads only; a folder that does not exist yet is a first run.

    `fingerprint` is the teacher's; asked for where labels are there. Raises TeacherChangedError where the run would, once it labels;
    ForeignClassesError.
    """
    run, folder = request.run, request.folder
    lines = [f"plan of {run.name} in {folder.root}"]
    closed = outcomes(folder)
    left = open_generation(folder)
    number = left.generation if left else max(closed, default=0) + 1
    labelling = labelling_of(request, number)
    try:
        summary = labelling.preview()
        labelling.check_classes()
    except DataError as error:
        if run.prepare is None or folder.origin_file.exists():
            raise
        lines.append(f"  samples: not there yet; {run.prepare.use} makes them ({type(error).__name__})")
        return "\n".join(lines)
    wanted = wanted_digests(run, sources_of(run, request.base))
    if left:
        found: Opening | None = amended(left, wanted=wanted, trained=trained_in(folder, left, request.base))
    else:
        found = opening(last_generation=number - 1, new_rows=summary.rows_left, wanted=wanted, trained=trained_digests(folder))
    stored = summarise(open_store(store_url(request)))
    if stored.rows_committed:
        learns = found is not None and (not summary.ended or trained_in(folder, found, request.base) < found.students.keys())
        lines += _teacher_plan(labelling, fingerprint(), learns=learns)
    cost = f", {_teacher_seconds(request, summary.rows_left)}" if summary.rows_left else ""
    lines.append(f"  labels: {summary.rows_known:,} rows known, {summary.rows_new:,} new, {summary.rows_left:,} to label{cost}")
    for name, section in run.students.items():
        lines.append(f"  student {name}: {_student_plan(request, name, found, left, wanted[name])}{_workers_plan(section)}")
        lines += [*_taken_back(request, name, found), *_approximate(request, name), *_weighs_nothing(request, name)]
        lines += _seen(name, section, found, summary.rows_known)
    for device in devices_gone(folder, run):
        lines.append(f"  device {device.name}: no longer in the run file: will be revoked for ever, and its folder removed")
    lines.append(f"  disk: {_used_bytes(folder.root) / 2**20:,.1f} MiB in the folder now; {_bytes_to_come(summary.rows_left, stored)}")
    return "\n".join(lines)


def check_students(request: RunRequest) -> list[str]:
    """Build and ask each student of the run file once, and export those that are not ours, so that a mistake there is told now.

    Returns what a person should know of them. Raises StudentError, ConfigError.
    """
    run, warnings = request.run, list[str]()
    for name, section in run.students.items():
        student = build_student(_spec(request, name))
        check_section(
            name,
            section,
            classes=len(run.classes),
            codec=codec_of(run.labelling, len(run.classes)).name,
            labelled=run.stream.label is not None,
        )
        if not run.labelling.embedding and any(loss in HINTS for loss in section.loss):
            expected = "`labelling.embedding = true` and a teacher that gives embeddings"
            raise HintImpossibleError(name, "`labelling.embedding` is false", expected, "set it, or leave the loss out")
        with torch.no_grad():
            logits_of(name, student.module.eval(), student.example, classes=len(run.classes), where="when it was tried on zeros")
        if section.use not in MODELS:
            to_onnx(name, student)
        warnings += student.warnings
    return warnings


def check_prepared(request: RunRequest) -> None:
    """Raises PreparedOtherwiseError where the folder's files were made from other inputs than the run file's. Makes nothing."""
    if request.run.prepare and (request.base / MARKER).is_file():
        prepare_run(request.run, folder=request.base, cache=cache_folder(), say=lambda _: None, fetch=fetch)


def check_samples(request: RunRequest) -> list[str]:
    """Read the splits that the run will read after training, so that a mistake there is told now.

    Returns what a person should know. Raises what reading them raises, SamplesMissingError, SampleUnfitError.
    """
    run = request.run
    validation = read_validation(open_source(run.validation, base=request.base), classes=run.classes)
    splits = [("validation", part) for part in (validation.fit, validation.choose, validation.gate)]
    for name, section in (("labelled", run.labelled), ("test", run.test)):
        if section:
            splits.append((name, read_samples(open_source(section, base=request.base), classes=run.classes)))
    for name, samples in splits:
        if not len(samples):
            raise SamplesMissingError("it", {"rows that parse": 0}, split=name)
    if run.stream.kind == "floats":
        _check_widths(request, splits)
    gate = validation.gate
    few = too_few(int((gate.hard_N != NO_LABEL).sum()) or len(gate), run.gate)
    return [f"  gate: against an incumbent, {few}"] if few else []


def _check_widths(request: RunRequest, splits: Sequence[tuple[str, Samples]]) -> None:
    for student in request.run.students:
        width = build_student(_spec(request, student)).width
        for name, samples in splits:
            try:
                encode(samples.inputs, kind="floats", width=width)
            except InputShapeError as error:
                raise SampleUnfitError(name, samples.ids[error.row], student, error.found, error.expected) from error


def _spec(request: RunRequest, name: str) -> StudentSpec:
    run = request.run
    return StudentSpec(name=name, section=run.students[name], classes=run.classes, kind=run.stream.kind, base=request.base, seed=run.seed)


def _teacher_plan(labelling: Labelling, fingerprint: str, *, learns: bool) -> list[str]:
    try:
        labelling.check_teacher(fingerprint)
    except TeacherChangedError as error:
        if learns:
            raise
        return [f"  teacher: asked nothing now, but {error}"]
    return []


def _used_bytes(root: Path) -> int:
    """Bytes below `root`; a live run may delete what was just listed."""
    used = 0
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            used += path.stat().st_size if path.is_file() else 0
    return used


def _student_plan(request: RunRequest, name: str, found: Opening | None, left: Opening | None, wanted: str) -> str:
    incumbent = incumbent_of(request.folder, name)
    if left and name not in left.students:
        return f"waits for the generation after {left.generation}, which is open"
    if found is None or name not in found.students:
        stays = f"stays as it is (generation {incumbent.generation})" if incumbent else "stays as it is"
        return stays + _refused(request, name)
    if left:
        return _open_student_plan(name, found, left, wanted)
    start = start_of(request.folder, name)
    if start is None or start.spec != found.students[name]:
        return f"trains afresh in generation {found.generation}"
    return f"trains in generation {found.generation}, warm from generation {start.generation}"


def _refused(request: RunRequest, name: str) -> str:
    """Of a student whose latest generation did not pass: the gate's samples are not looked at again for a budget that changed."""
    latest = [(number, outcome["students"][name]) for number, outcome in outcomes(request.folder).items() if name in outcome["students"]]
    if not latest or latest[-1][1]["fate"] != Fate.REFUSED:
        return ""
    return f"; generation {latest[-1][0]} was refused by the gate, and none is judged before there are new samples"


def _taken_back(request: RunRequest, name: str, found: Opening | None) -> list[str]:
    """A line where the latest release was yanked."""
    back = taken_back(request.folder, name)
    if back is None:
        return []
    if found is None or name not in found.students:
        return [f"  {name}: {what_next(request.folder, name, back)}"]
    return [f"  {name}: {back.says}: nothing starts from it, and it is to be beaten only while a device runs it"]


def _approximate(request: RunRequest, name: str) -> list[str]:
    """A line where the loss tempers labels that are not whole."""
    section, codec = request.run.students[name], codec_of(request.run.labelling, len(request.run.classes)).name
    if not is_approximate(section.loss, temperature=section.temperature, codec=codec):
        return []
    rest = f"`{codec}` keeps no record of how the rest divides"
    return [f"  {name}: its loss at temperature {section.temperature:g} is approximate: {rest}; `ghost` at temperature 1 needs none"]


def _weighs_nothing(request: RunRequest, name: str) -> list[str]:
    """A line for each weighting policy that has no evidence here, so that every sample keeps its weight."""
    run = request.run
    lacks = {"hard_label": "`stream.label` is not set"} if run.stream.label is None else {}
    if ":" not in run.teacher.use and not run.teacher.members:  # a teacher of the user's own may say how far its parts are apart
        lacks["disagreement"] = "the teacher is one model"
    chosen = [policy for policy in run.students[name].weighting if policy in lacks]
    return [f"  {name}: weighting by `{policy}` does nothing: {lacks[policy]}" for policy in chosen]


def _seen(name: str, section: StudentSection, found: Opening | None, rows_known: int) -> list[str]:
    """A line where a student's steps end before what is labelled for it does."""
    sees = section.steps * section.batch
    if found is None or name not in found.students or sees >= (rows := found.new_rows or rows_known):
        return []
    taken = f"{section.steps:,} steps of {section.batch:,}"
    return [f"  {name}: sees {sees:,} of {rows:,} labels: {taken} end before them; raise `steps` or `batch`"]


def _workers_plan(section: StudentSection) -> str:
    """Of a student whose number of workers is not fixed."""
    if section.workers_least == section.workers_most:
        return ""
    return (
        f", on {section.workers_least} to {section.workers_most} workers where the cluster offers {TRAINER}, else {section.workers_least}"
    )


def _open_student_plan(name: str, found: Opening, left: Opening, wanted: str) -> str:
    """Of a student whose generation is open."""
    if found.students[name] != left.students[name]:
        return f"changed: trains afresh in generation {found.generation}; its checkpoints there go"
    if found.students[name] != wanted:
        return f"goes on in generation {found.generation} as it was trained; what changed counts in the next"
    return f"goes on in generation {found.generation}"


def _teacher_seconds(request: RunRequest, rows: int) -> str:
    rate = _rows_per_teacher_second(request)
    return f"about {rows / rate:.1f} teacher seconds" if rate else "teacher seconds not measured yet"


def _bytes_to_come(rows: int, stored: LabelsSummary) -> str:
    """What the labels will add, at the bytes a label takes so far."""
    if not rows:
        return "no labels are added"
    if not stored.rows_committed:
        return f"what {rows:,} labels add is not measured yet"
    return f"{rows:,} labels add about {rows * stored.bytes / stored.rows_committed / 2**20:,.1f} MiB"


def _rows_per_teacher_second(request: RunRequest) -> float | None:
    """Measured in earlier generations of this run."""
    records = [read_json(request.folder.generation(number) / "labelling.json") for number in request.folder.generations()]
    rows = sum(record["teacher_rows"] for record in records if record)
    seconds = sum(record["teacher_s"] for record in records if record)
    return rows / seconds if rows and seconds else None
