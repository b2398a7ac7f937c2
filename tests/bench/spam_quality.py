"""Does the stream teach a student what its hard labels cannot? Five splits x seeds of the spam recipe, without Ray.

For each: the teacher is fitted on the labelled mails; the student of the run file learns from what the teacher says about the
unlabelled stream (all feeds); the control is the same student on the hard labels, with as many steps. Both are exported to
int8 and measured in onnxruntime on the test split; latencies of teacher and student are taken in turn, mail by mail. Everything that is
chosen was chosen on validation.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import pipeline.recipes.spam
from pipeline.config import RunFile, load
from pipeline.distill.losses import NO_LABEL
from pipeline.distill.metrics import log_softmax
from pipeline.recipes.spam import PACKAGE, SHA256, VERSION, fit_on, load_corpus, split, tables
from pipeline.recipes.spam.teacher import minimal_bytes
from pipeline.students.control import train_control, train_in_memory
from pipeline.students.evaluation import Candidate, evaluate, measure
from pipeline.students.export import Exported, export_student
from pipeline.students.graph import Graph
from pipeline.students.latency import latencies_in_turn_ms
from pipeline.students.models import Student, StudentSpec
from pipeline.students.samples import Samples
from pipeline.teachers.size import teacher_bytes
from pipeline.teachers.sklearn import save_sklearn
from tests.bench.compare import Comparison, alone, compare, paired
from workers.fetch import cache_folder, fetch

NAME = "spam_quality"
RUN_FILE = Path(pipeline.recipes.spam.__file__).with_name("run.toml")
SEEDS = (1, 2, 3, 4, 5)
FIGURES = ("accuracy", "auc", "recall_at_fpr", "agreement", "ece")


class _Fitted:
    """A fitted scikit-learn pipeline as a teacher."""

    fingerprint = "bench"
    deterministic = True

    def __init__(self, model: Any, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self._model, self._order = model, [list(model.classes_).index(name) for name in classes]

    def log_probs(self, inputs: Any) -> Any:
        return self._model.predict_log_proba(inputs.to_pylist()).astype(np.float32)[:, self._order]


def run(
    student: str | None = None, runs: int = len(SEEDS), *, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
) -> list[Comparison]:
    """Of the student that the recipe's first population runs, unless another is named, on the first `runs` of SEEDS."""
    settings = load(RUN_FILE.read_text(), where=str(RUN_FILE))
    student = student or next(iter(settings.fleet.populations.values())).student
    table = load_corpus(fetch(PACKAGE, VERSION, SHA256), cache_folder(), say=say)
    rows = [one_split(settings, student, table, seed, say=say) for seed in SEEDS[:runs]]
    return comparisons(rows, student)


def one_split(settings: RunFile, student: str, table: Any, seed: int, *, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Figures on the test split of one seed: of the teacher, the distilled student and the control."""
    classes = settings.classes
    files = tables(table, split(table, seed=seed))
    teacher_model = fit_on(files, say=lambda _: None).model
    teacher = _Fitted(teacher_model, classes)
    labelled = _samples(files["data/labelled.parquet"], classes)
    stream = _samples(pa.concat_tables([content for name, content in files.items() if name.startswith("feeds/")]), classes).with_teacher(
        teacher
    )
    validation = files["data/validation.parquet"]
    fit, choose = (_samples(validation.filter(pa.compute.equal(validation["part"], part)), classes) for part in ("fit", "choose"))
    test = _samples(files["data/test.parquet"], classes).with_teacher(teacher)
    spec = StudentSpec(name=student, section=settings.students[student], classes=classes, kind="text", base=RUN_FILE.parent, seed=seed)
    found: dict[str, dict[str, float]] = {}
    for name, train in (("distilled", lambda: train_in_memory(spec, stream)), ("control", lambda: train_control(spec, labelled))):
        began_s = time.perf_counter()
        trained: Student = train()
        took_s = time.perf_counter() - began_s
        with tempfile.TemporaryDirectory() as folder:
            exported = export_student(name=name, student=trained, fit=fit, choose=choose, out=Path(folder))
            found[name] = _figures(exported, test, settings) | {
                "training_s": took_s,
                "rows": float(len(stream if name == "distilled" else labelled)),
            }
            if name == "distilled":
                in_turn_ms = _latencies_in_turn_ms(teacher, exported, test)
    found["teacher"] = _teacher_figures(teacher_model, test, settings)
    for who, took_ms in in_turn_ms.items():
        found[who]["latency_p50_ms"] = took_ms
    say(f"seed {seed}: " + "; ".join(f"{name} accuracy {f['accuracy']:.4f} AUC {f['auc']:.4f}" for name, f in found.items()))
    return found


def comparisons(rows: list[dict[str, dict[str, float]]], student: str) -> list[Comparison]:
    """The distilled int8 file against the control's, with paired differences, and against the teacher."""

    def column(who: str, figure: str) -> list[float]:
        return [row[who][figure] for row in rows]

    found = []
    for figure in FIGURES:
        ours, control = column("distilled", figure), column("control", figure)
        found.append(
            compare(
                name=NAME, case=f"{figure}, {student} int8", unit="share", ours=ours, against="control int8, hard labels", theirs=control
            )
        )
        found += paired(name=NAME, case=f"{figure}, distilled minus control", unit="share", ours=ours, theirs=control)
    for figure in ("accuracy", "auc", "recall_at_fpr"):
        ours, theirs = column("distilled", figure), column("teacher", figure)
        found.append(compare(name=NAME, case=f"{figure}, {student} int8", unit="share", ours=ours, against="teacher", theirs=theirs))
    for figure, unit, case in (
        ("size_bytes", "bytes", "size, of files on disk (goal 1/50)"),
        ("bare_bytes", "bytes", "size; the teacher's is its n-grams with two float32 each"),
        ("latency_p50_ms", "ms", "latency p50 of one mail, in turn (goal 1/20); TF-IDF with a linear model is a small teacher"),
    ):
        ours = column("distilled", "size_bytes" if unit == "bytes" else figure)
        found.append(compare(name=NAME, case=case, unit=unit, ours=ours, against="teacher", theirs=column("teacher", figure)))
    found.append(
        alone(name=NAME, case="training of one student", unit="s", figure=float(np.median(column("distilled", "training_s"))), n=len(rows))
    )
    return found


def _samples(table: Any, classes: tuple[str, ...]) -> Samples:
    labels = table["label"].to_pylist() if "label" in table.column_names else [None] * table.num_rows
    return Samples(
        ids=tuple(table["mail"].to_pylist()),
        inputs=tuple(table["text"].to_pylist()),
        hard_N=np.array([NO_LABEL if label is None else classes.index(label) for label in labels], dtype=np.int64),
    )


def _figures(exported: Exported, test: Samples, settings: RunFile) -> dict[str, float]:
    candidate = Candidate(graph=exported.graph, kind=exported.kind, temperature=exported.temperature)
    evaluation = evaluate(candidate, test, classes=settings.classes, positive=settings.positive, clock=time.perf_counter)
    return {key: value for key, value in vars(evaluation).items() if isinstance(value, int | float)}


def _teacher_figures(model: Any, test: Samples, settings: RunFile) -> dict[str, float]:
    assert test.teacher_NK is not None
    assert settings.teacher.path
    figures = measure(log_softmax(test.teacher_NK), test, classes=settings.classes, positive=settings.positive)
    with tempfile.TemporaryDirectory() as base:
        save_sklearn(Path(base) / settings.teacher.path, model, kind="text")
        on_disk = teacher_bytes(settings.teacher, base=Path(base))
    assert on_disk
    return figures | {"size_bytes": float(on_disk), "bare_bytes": float(minimal_bytes(model))}


def _latencies_in_turn_ms(teacher: _Fitted, exported: Exported, test: Samples) -> dict[str, float]:
    """Medians of teacher and distilled student, which answer the same mails one after the other."""
    answerers: dict[str, Callable[[Any], object]] = {
        "teacher": lambda text: teacher.log_probs(pa.array([text])),
        "distilled": Graph(exported.graph, kind=exported.kind).answer,
    }
    took_ms = latencies_in_turn_ms(answerers, test.inputs, clock=time.perf_counter, calls=300)
    return {who: float(np.median(times)) for who, times in took_ms.items()}
