"""`kdpipe teachers`: how fast a teacher is here, and in which backend."""

import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.commands.probe import probe_inputs

if TYPE_CHECKING:
    from pipeline.config import RunFile, TeacherSection
    from pipeline.teachers import Teacher

RUNS, TIMED_S = 3, 1.0
"""Passes over the rows, at least; and so long, at least."""

app = typer.Typer(help="Look at a teacher before it labels.", no_args_is_help=True, rich_markup_mode=None)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One backend."""

    backend: str
    rows_per_s: float | None
    kl_mean_nats: float | None
    agreement: float | None
    problem: str = ""
    how: str = ""
    """What to write in the run file."""


@app.callback()
def teachers() -> None:
    """Look at a teacher before it labels."""


@app.command("bench")
def bench(
    runfile: Annotated[str, typer.Argument(metavar="RUNFILE|RECIPE", help="A run file (TOML), or a recipe whose data is prepared.")],
    directory: Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Folder of the run; runs/NAME by default.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=8, help="Rows of the stream to ask about.")] = 2048,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Most mean KL, in nats, from the teacher as it is.")] = 0.01,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where exported files are written.")] = Path("teacher-backends"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Time the teacher as it is, compiled, and as ONNX in float32 and int8, and say how far the labels are apart."""
    from workers.driver.request import RunRequest

    request = RunRequest.of(runfile, directory)
    inputs = probe_inputs(request.run, request.base, rows)
    found = list(_measured(request.run, request.base, inputs, out))
    fitting = [row for row in found if row.rows_per_s and row.kl_mean_nats is not None and row.kl_mean_nats <= tolerance]
    fastest = max(fitting, key=lambda row: row.rows_per_s or 0, default=None)
    if as_json:
        typer.echo(json.dumps({"backends": [asdict(row) for row in found], "fastest": fastest and fastest.backend, "rows": len(inputs)}))
        return
    typer.echo(f"{'backend':<12} {'rows/s':>10} {'mean KL, nats':>14} {'same class':>11}")
    for row in found:
        if row.rows_per_s is None:
            typer.echo(f"{row.backend:<12} {row.problem}")
        else:
            typer.echo(f"{row.backend:<12} {row.rows_per_s:>10,.0f} {row.kl_mean_nats:>14.2e} {row.agreement:>11.4f}")
    if fastest:
        typer.echo(f"fastest within {tolerance:g} nats: {fastest.backend}; in the run file: {fastest.how}")


def _measured(run: "RunFile", base: Path, inputs: Any, out: Path) -> Iterator[Row]:
    from pipeline.errors import KdpipeError
    from pipeline.teachers import load_teacher
    from pipeline.teachers.backends import TorchMade, onnx_sections, torch_sections

    teacher = load_teacher(run.teacher, classes=run.classes, base=base)
    reference_NK = _answers(teacher, inputs, run.teacher.batch_rows)

    def measured(backend: str, section: "TeacherSection") -> Row:
        try:
            other = load_teacher(section, classes=run.classes, base=base)
            return _row(backend, other, inputs, reference_NK, section.batch_rows, how=_how(section, run.teacher, base))
        except Exception as error:  # noqa: BLE001 - compilers fail in their own ways, and the others are still worth timing
            return _unmeasured(backend, f"fails: {(str(error) or type(error).__name__).splitlines()[0][:160]}")

    raw = getattr(teacher, "raw", None)
    if not isinstance(raw, TorchMade) or raw.module is None:
        yield _row("as it is", teacher, inputs, reference_NK, run.teacher.batch_rows, how="as it is")
        yield _unmeasured("others", "only a teacher that is a torch module can be run otherwise")
        return
    for backend, section in torch_sections(run.teacher).items():
        yield measured(backend, section)
    out.mkdir(parents=True, exist_ok=True)
    try:
        sections = onnx_sections(run.teacher, raw, inputs, out)
    except KdpipeError as error:
        yield _unmeasured("onnx", str(error))
        return
    for backend, section in sections.items():
        yield measured(backend, section)


def _row(backend: str, teacher: "Teacher", inputs: Any, reference_NK: Any, batch_rows: int, *, how: str) -> Row:
    from pipeline.teachers.backends import label_error

    error = label_error(_answers(teacher, inputs, batch_rows), reference_NK)  # the first pass also compiles and warms up
    seconds = list[float]()
    until_s = time.perf_counter() + TIMED_S
    while len(seconds) < RUNS or time.perf_counter() < until_s:  # a fast teacher needs many passes until its speed is to be seen
        began_s = time.perf_counter()
        _answers(teacher, inputs, batch_rows)
        seconds.append(time.perf_counter() - began_s)
    rate = len(inputs) / statistics.median(seconds)
    return Row(backend=backend, rows_per_s=rate, kl_mean_nats=error.kl_mean_nats, agreement=error.agreement, how=how)


def _answers(teacher: "Teacher", inputs: Any, batch_rows: int) -> Any:
    """Log-probabilities [N, K], asked for in the batches in which labelling asks."""
    import numpy as np
    import pyarrow as pa

    from pipeline.teachers.teacher import batches_of

    log_probs_NK = np.empty((len(inputs), len(teacher.classes)), dtype=np.float32)
    for places_B in batches_of(teacher, inputs, batch_rows):
        log_probs_NK[places_B] = teacher.log_probs(inputs.take(pa.array(places_B)))
    return log_probs_NK


def _unmeasured(backend: str, problem: str) -> Row:
    return Row(backend=backend, rows_per_s=None, kl_mean_nats=None, agreement=None, problem=problem)


def _how(section: "TeacherSection", now: "TeacherSection", base: Path) -> str:
    """What to write in the run file, whose folder is `base`, to have the teacher so."""

    def beside(path: str) -> str:
        return Path(os.path.relpath(path, base.resolve())).as_posix()

    changed = []
    if section.use != now.use:
        changed += [f'teacher.use = "{section.use}"', f"teacher.path = {json.dumps(beside(section.path or ''))}"]
    if section.backend != now.backend:
        changed.append(f'teacher.backend = "{section.backend}"')
    if section.options != now.options:
        options = dict(section.options)
        if "onnx" in options:
            options["onnx"] = beside(str(options["onnx"]))
        # JSON's strings, numbers and lists are TOML's, too
        inner = ", ".join(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in options.items())
        changed.append(f"teacher.options = {{ {inner} }}" if inner else "teacher.options = {}")
    return ", ".join(changed) or "as it is"
