"""What is measured of a file: quality where labels exist, agreement with the teacher, calibration, latency and size.

In onnxruntime with one thread, one input at a time for latency: the file that ships in the runtime that devices use. A figure that
the samples do not define is NaN. Pure but for the clock it is given.

Shapes: N samples, M of them labelled, K classes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.distill import metrics
from pipeline.distill.losses import NO_LABEL
from pipeline.inputs import InputKind
from pipeline.students.graph import Graph, GraphInvalidError
from pipeline.students.latency import latencies_in_turn_ms
from pipeline.students.samples import Samples
from pipeline.teachers.onnx import external_files
from pipeline.teachers.teacher import TeacherLoadError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file to judge and how to read its answers. `Exported` and an unpacked bundle both give one."""

    graph: Path
    kind: InputKind
    temperature: float
    classes: tuple[str, ...] | None = None
    """What its columns stand for; None: the run file's classes, in their order."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One file on one set of samples. NaN: the samples do not define it (no label, no positive class, no teacher)."""

    samples: int
    labelled: int
    accuracy: float
    auc: float
    recall_at_fpr: float
    fixed_fpr: float
    ece: float
    log_loss_nats: float
    worst_class_recall: float
    worst_class: str
    agreement: float
    latency_p50_ms: float
    latency_p99_ms: float
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """JSON has no NaN and no infinity: what is not defined, or not a number, is null."""
        return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in asdict(self).items()}


def evaluate(
    candidate: Candidate,
    samples: Samples,
    *,
    classes: tuple[str, ...],
    positive: str | None,
    clock: Callable[[], float],
    fixed_fpr: float = 0.01,
    latency_calls: int = 300,
) -> Evaluation:
    """Everything that is measured of a file on some samples. Raises GraphInvalidError."""
    return evaluate_answers(
        candidate, samples, classes=classes, positive=positive, clock=clock, fixed_fpr=fixed_fpr, latency_calls=latency_calls
    )[0]


def measure(
    log_probs_NK: NDArray[Any], samples: Samples, *, classes: tuple[str, ...], positive: str | None, fixed_fpr: float = 0.01
) -> dict[str, Any]:
    """The figures that depend on answers alone, for anything that answers in log-probabilities: a file, a module, the teacher."""
    with_label_N = samples.hard_N != NO_LABEL
    hard_M, log_probs_MK = samples.hard_N[with_label_N], log_probs_NK[with_label_N]
    nan = float("nan")
    auc = recall = nan
    if positive is not None and len(hard_M):
        index = classes.index(positive)
        score_M = log_probs_MK[:, index] - log_probs_MK[:, 1 - index]
        auc = metrics.auc(score_M, hard_M == index)
        recall = metrics.recall_at_fpr(score_M, hard_M == index, fpr_max=fixed_fpr)
    recalls = {
        name: metrics.accuracy(log_probs_MK[hard_M == k], hard_M[hard_M == k]) for k, name in enumerate(classes) if (hard_M == k).any()
    }
    worst = min(recalls, key=lambda name: recalls[name]) if recalls else ""
    return {
        "samples": len(samples),
        "labelled": len(hard_M),
        "accuracy": metrics.accuracy(log_probs_MK, hard_M),
        "auc": auc,
        "recall_at_fpr": recall,
        "fixed_fpr": fixed_fpr,
        "ece": metrics.expected_calibration_error(log_probs_MK, hard_M),
        "log_loss_nats": metrics.nll(log_probs_MK, metrics.one_hot(hard_M, len(classes))),
        "worst_class_recall": recalls.get(worst, nan),
        "worst_class": worst,
        "agreement": nan if samples.teacher_NK is None else metrics.agreement(log_probs_NK, samples.teacher_NK),
    }


def evaluate_answers(
    candidate: Candidate,
    samples: Samples,
    *,
    classes: tuple[str, ...],
    positive: str | None,
    clock: Callable[[], float],
    fixed_fpr: float = 0.01,
    latency_calls: int = 300,
) -> tuple[Evaluation, NDArray[np.float64]]:
    """`evaluate`, with the log-probabilities [N, K] that it judged."""
    graph = Graph(candidate.graph, kind=candidate.kind)
    log_probs_NK = metrics.log_softmax(graph.logits(samples.inputs) / candidate.temperature)
    if candidate.classes is not None:
        log_probs_NK = log_probs_NK[:, [candidate.classes.index(name) for name in classes]]
    took_ms = latencies_in_turn_ms({"file": graph.answer}, samples.inputs, clock=clock, calls=latency_calls, warmup=20)["file"]
    evaluation = Evaluation(
        **measure(log_probs_NK, samples, classes=classes, positive=positive, fixed_fpr=fixed_fpr),
        latency_p50_ms=float(np.percentile(took_ms, 50)),
        latency_p99_ms=float(np.percentile(took_ms, 99)),
        size_bytes=size_of(candidate.graph),
    )
    return evaluation, log_probs_NK


def size_of(graph: Path) -> int:
    """Bytes of a graph and of the files beside it that hold tensors of it, whatever their names. Raises GraphInvalidError."""
    try:
        return sum(path.stat().st_size for path in (graph, *external_files(graph)))
    except TeacherLoadError as error:
        raise GraphInvalidError(error.where, error.found, error.expected) from error
