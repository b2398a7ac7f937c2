"""vision: does a stream without labels teach a student what its few labels can't? Digits and Fashion-MNIST, five splits x seeds.

For each split a teacher is fitted on the labelled pictures: a convolutional net on 200 digits, a kernel machine over edges on 1,000
pictures of clothes. The student, of the zoo (`pixels`; `mlp`), learns three times, as many steps each: as `control` the same hard labels;
as `distilled` what the teacher says about pictures without a label (797; 8,000); as `both` from the two together. The control's learning
rate, the distilled student's temperature, and the weight of hard labels in `both` are chosen on `choose`, of three each, for each split
anew. All three are the files that would ship, in onnxruntime, when the test split is asked, once.

Then every loss on digits: `tests.bench.vision_losses`.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import StudentSection
from pipeline.distill.metrics import log_softmax
from pipeline.students.control import control_section
from pipeline.students.evaluation import measure
from pipeline.students.export import export_student
from pipeline.students.graph import Graph
from pipeline.students.models import Student
from pipeline.students.samples import Samples
from tests.bench import vision_losses
from tests.bench.compare import Comparison, alone, compare, markdown, paired, points
from tests.bench.picture_students import rank, taught
from tests.bench.pictures import CLASSES, Pictures, Sizes, digits, fashion_mnist
from tests.bench.vision_teacher import Fit, Lessons, conv_teacher, edge_teacher, lessons_of

NAME = "vision"
SEEDS = (1, 2, 3, 4, 5)
TEMPERATURES = (2.0, 1.0, 4.0)
RATES_TIMES = (1.0, 0.3, 3.0)
HARD_WEIGHTS = (0.3, 1.0, 3.0)
FIGURES = ("accuracy", "ece")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set and what is spent on it."""

    make: Callable[[], Pictures]
    sizes: Sizes
    fit: Fit
    section: StudentSection


def _section(**keys: Any) -> StudentSection:
    return StudentSection(batch=64, learning_rate=1e-2, average=0.99, **keys)


TASKS: Mapping[str, Task] = {
    "digits": Task(
        make=digits,
        sizes=(200, 797, 100, 200, 500),
        fit=conv_teacher,
        section=_section(use="pixels", options={"height": 8, "width": 8, "filters": 8}, steps=400),
    ),
    "fashion": Task(
        make=fashion_mnist,
        sizes=(1000, 8000, 300, 1000, 5000),
        fit=edge_teacher,
        section=_section(use="mlp", options={"features": 28 * 28, "width": 32}, steps=800),
    ),
}


def run(runs: int = len(SEEDS), *, say: Say = lambda text: print(text, file=sys.stderr)) -> list[Comparison]:
    """Cases: `DATA, FIGURE, int8`, of the first `runs` of SEEDS; then those of `vision_losses`."""
    torch.set_num_threads(1)
    found, lessons_of_digits = [], []
    for name, task in TASKS.items():
        pictures, rows = task.make(), []
        for seed in SEEDS[:runs]:
            lessons = lessons_of(pictures, task.sizes, task.fit, seed=seed)
            rows.append(one_split(lessons, task.section, seed=seed))
            told = ", ".join(f"{who} {figures['accuracy']:.4f}" for who, figures in rows[-1].items())
            say(f"{name}, seed {seed}: {told}")
            if name == "digits":
                lessons_of_digits.append(lessons)
        say(table(name, rows))
        found += comparisons(name, rows)
    return [*found, *vision_losses.run(dict(zip(SEEDS, lessons_of_digits, strict=False)), TASKS["digits"].section, say=say)]


def one_split(lessons: Lessons, section: StudentSection, *, seed: int) -> dict[str, dict[str, Any]]:
    """Figures on the test split: of the teacher and of the three students."""
    parts = lessons.parts
    labelled, stream, choose = parts["labelled"], parts["stream"], parts["choose"]

    def best(samples: Samples, sections: list[StudentSection]) -> tuple[Student, StudentSection]:
        tried = [(taught(one, samples, seed=seed), one) for one in sections]
        return max(tried, key=lambda of: rank(of[0], choose))

    hard = control_section(section)
    control, _ = best(labelled, [hard.model_copy(update={"learning_rate": section.learning_rate * times}) for times in RATES_TIMES])
    distilled, chosen = best(stream, [section.model_copy(update={"temperature": temperature}) for temperature in TEMPERATURES])
    both, _ = best(joined(labelled, stream), [chosen.model_copy(update={"loss": {"kl": 1.0, "ce": weight}}) for weight in HARD_WEIGHTS])
    test = parts["test"]
    assert test.teacher_NK is not None
    found = {"teacher": measure(test.teacher_NK, test, classes=CLASSES, positive=None) | {"size": lessons.teacher_size}}
    for who, student in (("control", control), ("distilled", distilled), ("both", both)):
        found[who] = _figures_of_file(student, parts)
    return found


def joined(first: Samples, second: Samples) -> Samples:
    assert first.teacher_NK is not None
    assert second.teacher_NK is not None
    return Samples(
        ids=first.ids + second.ids,
        inputs=first.inputs + second.inputs,
        hard_N=np.concatenate([first.hard_N, second.hard_N]),
        teacher_NK=np.concatenate([first.teacher_NK, second.teacher_NK]),
    )


def comparisons(name: str, rows: list[dict[str, dict[str, Any]]]) -> list[Comparison]:
    """Each student against the control, with paired differences, and against the teacher."""

    def column(who: str, figure: str) -> list[float]:
        return [float(row[who][figure]) for row in rows]

    found = []
    for figure in FIGURES:
        control = column("control", figure)
        for who in ("distilled", "both"):
            ours, case = column(who, figure), f"{name}, {figure}, {who} int8"
            found.append(compare(name=NAME, case=case, unit="share", ours=ours, against="control int8, hard labels", theirs=control))
            found += paired(name=NAME, case=f"{case} minus control", unit="share", ours=ours, theirs=control)
        ours, theirs = column("distilled", figure), column("teacher", figure)
        found.append(
            compare(name=NAME, case=f"{name}, {figure}, distilled int8", unit="share", ours=ours, against="teacher", theirs=theirs)
        )
    for who in ("teacher", "distilled"):
        case, size = f"{name}, size of the {who}", float(np.median(column(who, "size")))
        found.append(alone(name=NAME, case=case, unit="numbers", figure=size, n=len(rows)))
    is_int8 = [float(np.mean([row[who]["int8"] for who in ("control", "distilled", "both")])) for row in rows]
    found.append(alone(name=NAME, case=f"{name}, students that ship as int8", unit="share", figure=float(np.mean(is_int8)), n=len(rows)))
    return found


def table(name: str, rows: list[dict[str, dict[str, Any]]]) -> str:
    """For a page: means over the splits, and what each student adds to the control, in points."""
    lines = [[name, "accuracy", "minus control", "calibration error"]]
    for who in rows[0]:
        right, control = ([float(row[of]["accuracy"]) for row in rows] for of in (who, "control"))
        added = points(right, control) if who in ("distilled", "both") else ""
        lines.append([who, f"{np.mean(right):.4f}", added, f"{np.mean([row[who]['ece'] for row in rows]):.3f}"])
    return markdown(lines)


def _figures_of_file(student: Student, parts: Mapping[str, Samples]) -> dict[str, Any]:
    """Of the file that would ship, on the test split."""
    with tempfile.TemporaryDirectory() as folder:
        exported = export_student(name="student", student=student, fit=parts["fit"], choose=parts["choose"], out=Path(folder))
        answers_NK = log_softmax(Graph(exported.graph, kind="floats").logits(parts["test"].inputs) / exported.temperature)
    figures = measure(answers_NK, parts["test"], classes=CLASSES, positive=None)
    return figures | {"size": exported.parameters, "int8": exported.quantisation == "int8"}
