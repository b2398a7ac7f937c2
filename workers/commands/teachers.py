"""`kdpipe teachers`: how fast a teacher is here, and in which backend."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.commands.probe import probe_inputs

if TYPE_CHECKING:
    from pipeline.config import RunFile, TeacherSection
    from pipeline.teachers import Teacher

RUNS = 3

app = typer.Typer(help="Look at a teacher before it labels.", no_args_is_help=True, rich_markup_mode=None)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One backend."""

    backend: str
    rows_per_s: float | None
    kl_mean_nats: float | None
    agreement: float | None
    problem: str = ""


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
        typer.echo(f"fastest within {tolerance:g} nats: {fastest.backend}; in the run file: {_how(fastest.backend, out)}")


def _measured(run: "RunFile", base: Path, inputs: Any, out: Path) -> Iterator[Row]:
    from pipeline.errors import KdpipeError
    from pipeline.teachers import load_teacher

    teacher = load_teacher(run.teacher, classes=run.classes, base=base)
    reference = teacher.log_probs(inputs)
    try:
        sections = _sections(run.teacher, teacher, inputs, out)
    except KdpipeError as error:
        yield _row("as it is", teacher, inputs, reference, run.teacher.batch_rows)
        yield _unmeasured("others", str(error))
        return
    if not sections:
        yield _row("as it is", teacher, inputs, reference, run.teacher.batch_rows)
        yield _unmeasured("others", "only a teacher that is a torch module can be run otherwise")
    for backend, section in sections.items():
        try:
            other = load_teacher(section, classes=run.classes, base=base)
            yield _row(backend, other, inputs, reference, section.batch_rows)
        except Exception as error:  # noqa: BLE001 - compilers fail in their own ways, and the others are still worth timing
            yield Row(
                backend=backend, rows_per_s=None, kl_mean_nats=None, agreement=None, problem=f"fails: {str(error).splitlines()[0][:160]}"
            )


def _sections(section: "TeacherSection", teacher: "Teacher", inputs: Any, out: Path) -> Mapping[str, "TeacherSection"]:
    module = getattr(getattr(teacher, "raw", None), "module", None)
    if module is None:
        return {}
    from pipeline.teachers.backends import sections_of

    out.mkdir(parents=True, exist_ok=True)
    return sections_of(section, module, inputs, out)


def _row(backend: str, teacher: "Teacher", inputs: Any, reference: Any, batch_rows: int) -> Row:
    import numpy as np

    from pipeline.teachers.backends import label_error

    def ask() -> Any:
        return np.concatenate([teacher.log_probs(inputs[start : start + batch_rows]) for start in range(0, len(inputs), batch_rows)])

    error = label_error(ask(), reference)  # the first pass also compiles and warms up
    seconds = []
    for _ in range(RUNS):
        began_s = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began_s)
    return Row(
        backend=backend, rows_per_s=len(inputs) / statistics.median(seconds), kl_mean_nats=error.kl_mean_nats, agreement=error.agreement
    )


def _unmeasured(backend: str, problem: str) -> Row:
    return Row(backend=backend, rows_per_s=None, kl_mean_nats=None, agreement=None, problem=problem)


def _how(backend: str, out: Path) -> str:
    if backend.startswith("onnx"):
        name = "teacher.onnx" if backend == "onnx fp32" else "teacher-int8.onnx"
        return f'teacher.use = "onnx", teacher.path = "{out / name}"'
    return "as it is" if backend in ("eager", "as it is") else f'teacher.backend = "{backend}"'
