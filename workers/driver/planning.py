"""The plan of a run, before it does anything: what continues, what starts afresh, what is labelled, what it costs."""

from pipeline.errors import DataError
from pipeline.loop.generation import Opening, opening, spec_digest
from workers.driver.folder import read_json
from workers.driver.labels import labelling_of
from workers.driver.records import incumbent_of, open_generation, outcomes, trained_digests
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
    wanted = {name: spec_digest(run, name) for name in run.students}
    found: Opening | None = left or opening(
        last_generation=max(closed, default=0), new_rows=summary.rows_left, wanted=wanted, trained=trained_digests(folder)
    )
    rate = _rows_per_teacher_second(request)
    cost = f", about {summary.rows_left / rate:.1f} teacher seconds" if rate and summary.rows_left else ""
    lines.append(f"  labels: {summary.rows_known:,} rows known, {summary.rows_new:,} new, {summary.rows_left:,} to label{cost}")
    for name in run.students:
        lines.append(f"  student {name}: {_student_plan(request, name, found, goes_on=left is not None)}")
    used = sum(path.stat().st_size for path in folder.root.rglob("*") if path.is_file()) if folder.root.exists() else 0
    lines.append(f"  disk: {used / 2**20:,.1f} MiB in the folder now")
    return "\n".join(lines)


def _student_plan(request: RunRequest, name: str, found: Opening | None, *, goes_on: bool) -> str:
    incumbent = incumbent_of(request.folder, name)
    if found is None or name not in found.students:
        return f"stays as it is (generation {incumbent.generation})" if incumbent else "stays as it is"
    if goes_on and found.students[name] == spec_digest(request.run, name):
        return f"goes on in generation {found.generation}"
    if name in found.afresh or incumbent is None:
        return f"trains afresh in generation {found.generation}"
    return f"trains in generation {found.generation}, warm from generation {incumbent.generation}"


def _rows_per_teacher_second(request: RunRequest) -> float | None:
    """Measured in earlier generations of this run."""
    records = [read_json(request.folder.generation(number) / "labelling.json") for number in request.folder.generations()]
    rows = sum(record["teacher_rows"] for record in records if record)
    seconds = sum(record["teacher_s"] for record in records if record)
    return rows / seconds if rows and seconds else None
