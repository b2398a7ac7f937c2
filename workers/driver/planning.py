"""The plan of a run, before it does anything: what continues, what starts afresh, what is labelled, what it costs."""

import contextlib
from pathlib import Path

from pipeline.errors import DataError
from pipeline.loop.generation import Opening, amended, opening, wanted_digests
from pipeline.sources import open_source
from pipeline.teachers import load_teacher
from workers.driver.folder import read_json
from workers.driver.labels import labelling_of
from workers.driver.records import incumbent_of, open_generation, outcomes, trained_digests, trained_in
from workers.driver.request import RunRequest


def plan_text(request: RunRequest) -> str:
    """A few lines for a person. Reads only; a folder that does not exist yet is a first run."""
    run, folder = request.run, request.folder
    lines = [f"plan of {run.name} in {folder.root}"]
    closed = outcomes(folder)
    left = open_generation(folder)
    number = left.generation if left else max(closed, default=0) + 1
    try:
        summary = labelling_of(request, number).preview()
    except DataError as error:
        if run.prepare is None or folder.origin_file.exists():
            raise
        lines.append(f"  samples: not there yet; {run.prepare.use} makes them ({type(error).__name__})")
        return "\n".join(lines)
    wanted = wanted_digests(run)
    if left:
        found: Opening | None = amended(left, wanted=wanted, trained=trained_in(folder, left))
    else:
        found = opening(last_generation=number - 1, new_rows=summary.rows_left, wanted=wanted, trained=trained_digests(folder))
    rate = _rows_per_teacher_second(request)
    cost = f", about {summary.rows_left / rate:.1f} teacher seconds" if rate and summary.rows_left else ""
    lines.append(f"  labels: {summary.rows_known:,} rows known, {summary.rows_new:,} new, {summary.rows_left:,} to label{cost}")
    for name in run.students:
        lines.append(f"  student {name}: {_student_plan(request, name, found, goes_on=left is not None)}")
    used = _used_bytes(folder.root)
    lines.append(f"  disk: {used / 2**20:,.1f} MiB in the folder now")
    return "\n".join(lines)


def check_inputs(request: RunRequest) -> None:
    """Open what the run will read later, and the teacher, so that a mistake there is told now. Raises what they raise."""
    run = request.run
    for section in (run.validation, run.labelled, run.test):
        if section:
            source = open_source(section, base=request.base)
            for part in source.parts():
                source.read(part.identity, range(min(part.rows, 1)))
    load_teacher(run.teacher, classes=run.classes, base=request.base)


def _used_bytes(root: Path) -> int:
    """Bytes below `root`; a live run may delete what was just listed."""
    used = 0
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            used += path.stat().st_size if path.is_file() else 0
    return used


def _student_plan(request: RunRequest, name: str, found: Opening | None, *, goes_on: bool) -> str:
    incumbent = incumbent_of(request.folder, name)
    if found is None or name not in found.students:
        return f"stays as it is (generation {incumbent.generation})" if incumbent else "stays as it is"
    if name in found.afresh or incumbent is None:
        return f"{'goes on' if goes_on else 'trains afresh'} in generation {found.generation}"
    if goes_on:
        return f"goes on in generation {found.generation}"
    return f"trains in generation {found.generation}, warm from generation {incumbent.generation}"


def _rows_per_teacher_second(request: RunRequest) -> float | None:
    """Measured in earlier generations of this run."""
    records = [read_json(request.folder.generation(number) / "labelling.json") for number in request.folder.generations()]
    rows = sum(record["teacher_rows"] for record in records if record)
    seconds = sum(record["teacher_s"] for record in records if record)
    return rows / seconds if rows and seconds else None
