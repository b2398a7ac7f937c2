"""Every loss on the same lessons: digits, what one teacher says about pictures without labels, five splits x seeds.

Soft losses take a temperature of 1, 2 or 4, hints a weight of 0.1 or 1 beside KL at 2, whichever does best on `choose` in that split;
`ghost` and `rs_kd` learn from what the sparse codecs keep (three classes; eight draws), at temperature 1. The students are judged as
modules. Published against `kl`, also where a loss does not help.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pipeline.config import StudentSection
from pipeline.labels.codecs import Codec, Sampled, SparseLabels, TopK
from pipeline.students.memory import Extras
from pipeline.students.models import Student
from tests.bench.compare import Comparison, compare, markdown, paired, points
from tests.bench.picture_students import judged, rank, taught
from tests.bench.vision_teacher import Lessons

NAME = "vision"
BASE = "kl"
TEMPERED = ("kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "standardised_kl", "dkd", "dist")
TEMPERATURES = (2.0, 1.0, 4.0)
SPARSE: Mapping[str, Codec] = {"ghost": TopK(k=3), "rs_kd": Sampled(draws=8)}
HINTS = ("hint", "hint_cosine")
HINT_WEIGHTS = (1.0, 0.1)


def run(lessons: Mapping[int, Lessons], section: StudentSection, *, say: Callable[[str], None]) -> list[Comparison]:
    """Cases: `digits, accuracy, loss NAME`, against `kl`. `lessons` by the seed of their split."""
    right: dict[str, list[float]] = {name: [] for name in (*TEMPERED, *SPARSE, *HINTS)}
    for seed, lesson in lessons.items():
        for name in right:
            student = _best(name, lesson, section, seed)
            right[name].append(judged(student, lesson.parts["test"])[0])
        say(f"losses, seed {seed}: " + ", ".join(f"{name} {found[-1]:.4f}" for name, found in right.items()))
    say(table(right))
    comparisons = []
    for name in right:
        if name != BASE:
            case, ours, theirs = f"digits, accuracy, loss {name}", right[name], right[BASE]
            comparisons.append(compare(name=NAME, case=case, unit="share", ours=ours, against=BASE, theirs=theirs))
            comparisons += paired(name=NAME, case=f"{case} minus {BASE}", unit="share", ours=ours, theirs=theirs)
    return comparisons


def table(right: Mapping[str, Sequence[float]]) -> str:
    """For a page: shares right, and what each loss adds to that of `kl`, in points."""
    rows = [["loss", "accuracy", f"minus `{BASE}`"]]
    for name, ours in right.items():
        rows.append([f"`{name}`", f"{np.mean(ours):.4f}", "" if name == BASE else points(ours, right[BASE])])
    return markdown(rows)


def _best(name: str, lesson: Lessons, section: StudentSection, seed: int) -> Student:
    """Of the ways to use this loss, the student that does best on `choose`."""
    stream, extras = lesson.parts["stream"], extras_of(name, lesson)
    tried = [taught(section.model_copy(update=keys), stream, extras, seed=seed) for keys in ways(name)]
    return max(tried, key=lambda student: rank(student, lesson.parts["choose"]))


def ways(name: str) -> Iterator[Mapping[str, object]]:
    """Keys of the student's section."""
    if name in HINTS:
        yield from ({"loss": {BASE: 1.0, name: weight}} for weight in HINT_WEIGHTS)
    elif name in SPARSE:
        yield {"loss": {name: 1.0}, "temperature": 1.0}
    else:
        yield from ({"loss": {name: 1.0}, "temperature": temperature} for temperature in TEMPERATURES)


def extras_of(name: str, lesson: Lessons) -> Extras:
    if name in HINTS:
        return Extras(embedding_ND=lesson.seen_ND)
    return Extras(recorded=_kept(SPARSE[name], lesson)) if name in SPARSE else Extras()


def _kept(codec: Codec, lesson: Lessons) -> SparseLabels:
    """What a shard of this codec would have kept."""
    teacher_NK = lesson.parts["stream"].teacher_NK
    assert teacher_NK is not None
    column = codec.encode(teacher_NK, np.arange(len(teacher_NK)))
    return codec.sparse(column, teacher_NK.shape[1])
