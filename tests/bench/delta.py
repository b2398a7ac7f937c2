"""How many bytes bring a device from one release to the next? Consecutive students, through the product's own export and bundles.

For each seed and student of the zoo: the incumbent is trained on the first feed of its recipe; successors start from its weights and take
20, 100 and 400 more steps, at the recipe's learning rate, on all feeds. Ours, bsdiff4 and zstd (plain, and with the old bundle as
dictionary) make the same new bundle of the same old one. What keeping the incumbent's codes costs is measured on the test split, against
the same successor exported without an incumbent. Nothing here is timed: bytes do not depend on the machine.
"""

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bsdiff4
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

import pipeline.recipes.digits
import pipeline.recipes.spam
from pipeline.config import RunFile, StudentSection, load
from pipeline.distill.losses import NO_LABEL
from pipeline.distill.metrics import accuracy, log_softmax
from pipeline.distill.paired import mean_interval_95
from pipeline.releases.bundle import build_bundle
from pipeline.releases.delta import LEVEL, Span, make_delta
from pipeline.releases.manifest import BundleManifest, Golden, InputSpec
from pipeline.releases.origin import Origin, gate_evidence
from pipeline.students.control import memory_reader
from pipeline.students.export import Exported, export_student
from pipeline.students.gate import Candidate, judge
from pipeline.students.graph import Graph
from pipeline.students.loop import Moved, Trainer, load_model
from pipeline.students.models import Student, StudentSpec, build_student
from pipeline.students.samples import Samples
from pipeline.teachers import load_teacher
from tests.bench.compare import Comparison, alone, compare
from workers.driver.judging import golden_samples
from workers.fetch import cache_folder, fetch

NAME = "delta"
SEEDS = (1, 2, 3, 4, 5)
STEPS = (20, 100, 400)
CHUNK_BYTES = 1024
Say = Callable[[str], None]
STUDENTS: dict[str, tuple[Any, StudentSection | str]] = {
    "byte_conv": (pipeline.recipes.spam, "small"),
    "mlp": (pipeline.recipes.digits, "small"),
    "pixels": (pipeline.recipes.digits, StudentSection(use="pixels", options={"height": 8, "width": 8}, steps=600)),
}
"""What is taught -> its recipe, and the student of the recipe's run file or one beside it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A recipe's data with its teacher's answers."""

    settings: RunFile
    feeds: list[Samples]
    fit: Samples
    choose: Samples
    test: Samples


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two consecutive releases, in bytes, and what nearness cost the second."""

    student: str
    steps: int
    full: int
    packed: int
    ours: int
    unrounded: int
    """Ours, had the successor been exported without its incumbent."""
    bsdiff4: int
    zstd_dictionary: int
    zstd: int
    chunks: int
    """Chunks that the old bundle does not have, uncompressed, and the list of hashes."""
    blob: int
    blob_ours: int
    codes_kept: float
    accuracy_cost: float
    """On the test split, exported alone minus near."""
    nats_cost: float
    """KL from the teacher on the test split, near minus exported alone."""


def run(runs: int = 3, *, say: Say = lambda text: print(text, file=sys.stderr)) -> list[Comparison]:
    """`runs` seeds, each with its own split, incumbents and successors."""
    pairs: list[Pair] = []
    for seed in SEEDS[:runs]:
        tasks: dict[str, Task] = {}
        for student, (recipe, section) in STUDENTS.items():
            task = tasks.setdefault(recipe.__name__, _task(recipe, seed))
            spec = StudentSpec(
                name=student.replace("_", "-"),
                section=task.settings.students[section] if isinstance(section, str) else section,
                classes=task.settings.classes,
                kind=task.settings.stream.kind,
                base=Path(),
                seed=seed,
            )
            with tempfile.TemporaryDirectory() as folder:
                pairs += _pairs(student, spec, task, Path(folder), say=say)
    return comparisons(pairs)


def comparisons(pairs: Sequence[Pair]) -> list[Comparison]:
    """Medians and worst cases against the full bundle and the yardsticks; the blob alone; the cost."""
    found = []
    for against, figure in (
        ("full int8", "full"),
        ("bsdiff4", "bsdiff4"),
        ("zstd, old bundle as dictionary", "zstd_dictionary"),
        ("zstd", "zstd"),
        (f"chunks of {CHUNK_BYTES} bytes", "chunks"),
        ("ours, exported without the incumbent", "unrounded"),
    ):
        found += _cases("", [pair.ours for pair in pairs], against, [getattr(pair, figure) for pair in pairs])
    for student in STUDENTS:
        mine = [pair for pair in pairs if pair.student == student]
        found += _cases(f"{student}, ", [pair.ours for pair in mine], "full int8", [pair.full for pair in mine])
    for steps in STEPS:
        mine = [pair for pair in pairs if pair.steps == steps]
        found += _cases(f"{steps} steps, ", [pair.ours for pair in mine], "full int8", [pair.full for pair in mine])
    found += _cases("weights alone, ", [pair.blob_ours for pair in pairs], "the blob", [pair.blob for pair in pairs])
    found += _cases("from nothing, ", [pair.packed for pair in pairs], "full int8", [pair.full for pair in pairs])
    found.append(_alone("codes kept, median", "share", statistics.median(pair.codes_kept for pair in pairs), pairs))
    for cost, unit in (("accuracy_cost", "share"), ("nats_cost", "nats")):
        mean, low, high = mean_interval_95(np.array([getattr(pair, cost) for pair in pairs]))
        for says, value in (("mean", mean), ("95 % interval, low", low), ("95 % interval, high", high)):
            found.append(_alone(f"{cost} on test, {says}", unit, value, pairs))
    return found


def _cases(prefix: str, ours: Sequence[int], against: str, theirs: Sequence[int]) -> list[Comparison]:
    median = compare(name=NAME, case=f"{prefix}median", unit="bytes", ours=ours, against=against, theirs=theirs)
    worst = max(range(len(ours)), key=lambda place: ours[place] / theirs[place])
    greatest = replace(
        median,
        case=f"{prefix}max",
        figure=ours[worst],
        against_figure=theirs[worst],
        ratio=ours[worst] / theirs[worst],
    )
    return [median, greatest]


def _alone(case: str, unit: str, figure: float, pairs: Sequence[Pair]) -> Comparison:
    return alone(name=NAME, case=case, unit=unit, figure=float(figure), n=len(pairs))


def _task(recipe: Any, seed: int) -> Task:
    """The recipe, prepared as `kdpipe run` does, and its teacher asked about everything."""
    settings = load(Path(recipe.__file__).with_name("run.toml").read_text(), where=recipe.__name__)
    assert settings.prepare
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        recipe.prepare(folder=folder, cache=cache_folder(), seed=seed, options=settings.prepare.options, say=lambda _: None, fetch=fetch)
        teacher = load_teacher(settings.teacher, classes=settings.classes, base=folder)

        def samples(table: Any) -> Samples:
            return _samples(table, settings).with_teacher(teacher).answered()

        validation = pq.read_table(folder / "data/validation.parquet")
        parts = {part: samples(validation.filter(pa.compute.equal(validation["part"], part))) for part in ("fit", "choose")}
        feeds = [samples(pq.read_table(path)) for path in sorted((folder / "feeds").glob("*.parquet"))]
        return Task(settings=settings, feeds=feeds, test=samples(pq.read_table(folder / "data/test.parquet")), **parts)


def _samples(table: Any, settings: RunFile) -> Samples:
    stream, classes = settings.stream, settings.classes
    labels = table["label"].to_pylist() if "label" in table.column_names else [None] * table.num_rows
    inputs = table[stream.input].to_pylist()
    return Samples(
        ids=tuple(table[stream.id].to_pylist()),
        inputs=tuple(inputs if stream.kind == "text" else map(tuple, inputs)),
        hard_N=np.array([NO_LABEL if label is None else classes.index(label) for label in labels], dtype=np.int64),
    )


def _joined(parts: Sequence[Samples]) -> Samples:
    teacher = [part.teacher_NK for part in parts if part.teacher_NK is not None]
    return Samples(
        ids=tuple(name for part in parts for name in part.ids),
        inputs=tuple(value for part in parts for value in part.inputs),
        hard_N=np.concatenate([part.hard_N for part in parts]),
        teacher_NK=np.concatenate(teacher),
    )


def _pairs(name: str, spec: StudentSpec, task: Task, folder: Path, *, say: Say) -> list[Pair]:
    incumbent = _taught(spec, task.feeds[0], start=None)
    weights = incumbent.module.state_dict()
    first = export_student(name=name, student=incumbent, fit=task.fit, choose=task.choose, out=folder / "first")
    old = _bundle(first, spec, task, before=None, out=folder / "first.kdpb")
    found = []
    for steps in STEPS:
        longer = replace(spec, section=spec.section.model_copy(update={"steps": steps}))
        successor = _taught(longer, _joined(task.feeds), start=weights)
        exports = {}
        for how, graph in (("alone", None), ("near", first.graph)):
            out = folder / f"{how}-{steps}"
            exports[how] = export_student(name=name, student=successor, fit=task.fit, choose=task.choose, out=out, incumbent=graph)
        bundles = {
            how: _bundle(exported, longer, task, before=first, out=folder / f"{how}-{steps}.kdpb") for how, exported in exports.items()
        }
        pair = _pair(name, steps, old, bundles, first, exports, task.test)
        say(f"seed {spec.seed}: {pair}")
        found.append(pair)
    return found


def _taught(spec: StudentSpec, samples: Samples, *, start: Any) -> Student:
    student = build_student(spec)
    if start is not None:
        load_model(spec.name, student, start)
    reader = memory_reader(samples, classes=spec.classes, section=spec.section, seed=spec.seed)
    trainer = Trainer(name=spec.name, student=student, section=spec.section, classes=spec.classes, reader=reader, seed=spec.seed)
    while trainer.advance() is not Moved.DONE:
        pass
    return student


def _bundle(exported: Exported, spec: StudentSpec, task: Task, *, before: Exported | None, out: Path) -> bytes:
    """As a release of it would be signed, after `before`; judged by the test split, for the sake of the report's bytes."""
    report = judge(
        student=spec.name,
        candidate=_candidate(exported),
        incumbent=None if before is None else _candidate(before),
        gate=task.test,
        section=task.settings.gate,
        classes=spec.classes,
        positive=task.settings.positive,
        clock=time.perf_counter,
        memory_bytes=50_000_000,
    )
    release = 1 if before is None else 2
    manifest = BundleManifest(
        student=spec.name,
        release=release,
        classes=spec.classes,
        input=InputSpec(kind=exported.kind, name=exported.input_name, width=exported.width),
        temperature=exported.temperature,
        positive=task.settings.positive,
        teacher="0" * 64,
        memory_bytes=50_000_000 + release,
        origin=Origin(
            generation=release,
            parent=None if before is None else hashlib.sha256(before.weights.read_bytes()).hexdigest(),
            log="0" * 32,
            first_window=0,
            stop_window=10 * release,
            rows=spec.section.steps * spec.section.batch,
            config=spec.section.model_dump(mode="json"),
            gate=gate_evidence(report.to_json()),
        ),
    )
    golden = [
        Golden(input=g["input"] if isinstance(g["input"], str) else tuple(g["input"]), probabilities=tuple(g["probabilities"]))
        for g in golden_samples(exported, task.choose)
    ]
    build_bundle(out, manifest=manifest, graph=exported.graph, weights=exported.weights, golden=golden)
    return out.read_bytes()


def _candidate(exported: Exported) -> Candidate:
    return Candidate(graph=exported.graph, kind=exported.kind, temperature=exported.temperature)


def _pair(
    name: str, steps: int, old: bytes, bundles: dict[str, bytes], first: Exported, exports: dict[str, Exported], test: Samples
) -> Pair:
    new, blob, blob_before = bundles["near"], exports["near"].weights.read_bytes(), first.weights.read_bytes()
    logits = {how: Graph(exported.graph, kind=exported.kind).logits(test.inputs) for how, exported in exports.items()}
    accuracies = {how: accuracy(logits_NK, test.hard_N) for how, logits_NK in logits.items()}
    nats = {how: _nats_from_teacher(logits_NK, test) for how, logits_NK in logits.items()}
    spans = [Span(old=0, new=0, length=len(blob))] if len(blob) == len(blob_before) else []
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return Pair(
        student=name,
        steps=steps,
        full=len(new),
        packed=len(make_delta(b"", new)),
        ours=len(make_delta(old, new)),
        unrounded=len(make_delta(old, bundles["alone"])),
        bsdiff4=len(bsdiff4.diff(old, new)),
        zstd_dictionary=len(zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary).compress(new)),
        zstd=len(zstandard.ZstdCompressor(level=LEVEL).compress(new)),
        chunks=_chunk_bytes(old, new),
        blob=len(blob),
        blob_ours=len(make_delta(blob_before, blob, spans)),
        codes_kept=exports["near"].codes_kept,
        accuracy_cost=accuracies["alone"] - accuracies["near"],
        nats_cost=nats["near"] - nats["alone"],
    )


def _nats_from_teacher(logits_NK: Any, samples: Samples) -> float:
    teacher_NK = samples.teacher_NK
    assert teacher_NK is not None
    return float((np.exp(teacher_NK) * (teacher_NK - log_softmax(logits_NK))).sum(axis=1).mean())


def _chunk_bytes(old: bytes, new: bytes) -> int:
    """The most that chunks could spare: a chunk counts as known wherever it lies in the old bundle; 8 bytes of hash each."""
    chunks = [new[start : start + CHUNK_BYTES] for start in range(0, len(new), CHUNK_BYTES)]
    return sum(8 + (0 if chunk in old else len(chunk)) for chunk in chunks)
