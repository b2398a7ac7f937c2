"""From a trained module to the file that ships: ONNX with everything inside, int8 where that costs nothing, checked on real samples.

    module -> torch.onnx (dynamo) -> static QDQ int8 (S8S8, per channel) -> graph.onnx + weights.bin

`graph.onnx` is fixed for a student's architecture: two trainings differ in `weights.bin` alone, which holds every trained value,
scales included. (Shapes and axes, which are not trained, stay in the graph, where the runtime needs them to plan.) Paths and
stack traces are removed. Matrix products keep their float outputs, so that logits are not rounded to 8 bits.

int8 is kept if it loses at most `budget` of the module's accuracy on `choose` (agreement with the module where no labels are), or if what
it loses may be chance (95 %, paired) and its answers are the module's but for `NATS_LOST`: one sample of a hundred is beyond many a budget;
otherwise dynamic int8, then fp32, take its place and the reason is in `Exported.reason`. A student with an incumbent of the same graph
keeps its scales and as many of its codes as cost it little (`rounding`), so that devices get by with a small delta: no accuracy beyond
`budget` and chance, and answers that are no further from the module's than those of int8 and a tenth of the incumbent's distance.

The graph's output is logits. The temperature, fitted on `fit` with the file that ships, travels beside it, in the manifest:
softmax(logits / temperature).

A crash leaves a temporary folder `.tmp-*` and no `graph.onnx`, or both files complete: the graph is renamed into place last.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from pipeline.distill.metrics import accuracy, agreement, fit_temperature, log_softmax, one_hot, right
from pipeline.files import sync_folder, write_atomic
from pipeline.inputs import InputKind, encode
from pipeline.students.answering import not_finite
from pipeline.students.faults import AnswersNotFiniteError
from pipeline.students.graph import Graph
from pipeline.students.importance import by_tensor, fisher_diagonal
from pipeline.students.models import Student
from pipeline.students.onnx_file import GRAPH, WEIGHTS, quantiser_kept_off_the_root_logger, quiet, split, to_onnx
from pipeline.students.rounding import round_toward, trained_tensors, with_headroom
from pipeline.students.samples import Samples

Quantisation = Literal["int8", "int8-dynamic", "fp32"]
CALIBRATION_ROWS = 256
QUANTISED_OPS = ["Conv", "Gather", "Gemm", "MatMul"]
PREPARED = "prepared.onnx"
NATS_LOST = 0.005
"""KL(module || int8) on `choose` up to which a loss of accuracy can be chance."""
PRICES = (0.0, *(2.0 ** (half / 2) for half in range(-80, 1)))
"""Nats that a bit of the delta may cost, least first."""
MOVE_SPENT = 0.1
"""Of the distance in nats that training moved the answers, the share that keeping the incumbent's codes may cost."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the file is from the module it was made of, on real samples, at temperature 1."""

    samples: int
    max_log_prob_difference: float
    agreement: float
    """Share of samples with the same first class."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A graph with its weights, and what a device must know to run it."""

    graph: Path
    weights: Path
    kind: InputKind
    input_name: str
    width: int
    temperature: float
    quantisation: Quantisation
    reason: str
    """Why it is not int8; empty where it is."""
    parity: Parity
    parameters: int
    codes_kept: float
    """Share of int8 codes that are the incumbent's; 0 where it was rounded without one."""

    @property
    def size_bytes(self) -> int:
        return self.graph.stat().st_size + self.weights.stat().st_size


def export_student(
    *, name: str, student: Student, fit: Samples, choose: Samples, out: Path, budget: float = 0.005, incumbent: Path | None = None
) -> Exported:
    """Write `out/graph.onnx` and `out/weights.bin`. Same module, samples and incumbent, same bytes.

    Raises ExportError, AnswersNotFiniteError. `incumbent` is the graph of the version that devices run, its weights beside it.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(".tmp-export-*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=out, prefix=".tmp-export-") as scratch:
        folder = Path(scratch)
        plain = folder / "plain.onnx"
        made, floats = to_onnx(name, student)
        onnx.save_model(made, str(plain))
        module_logits = _module_logits(name, student, choose)
        kept, reason = _quantise(plain, floats, student=student, fit=fit, choose=choose, module_logits=module_logits, budget=budget)
        model = onnx.load(str(kept))
        graph, weights = split(model, folder / "split")
        codes_kept = 0.0
        if incumbent is not None and kept.name == "int8.onnx" and incumbent.read_bytes() == graph.read_bytes():
            near = _near(kept, graph, incumbent, student=student, fit=fit, choose=choose, module_logits=module_logits, budget=budget)
            if near is not None:
                graph, weights, codes_kept = near
        parity = _parity(_finite(name, Graph(graph, kind=student.kind).logits(choose.inputs), choose), module_logits)
        temperature = fitted_temperature(Graph(graph, kind=student.kind), fit)
        (out / GRAPH).unlink(missing_ok=True)
        write_atomic(out / WEIGHTS, weights.read_bytes())
        write_atomic(out / GRAPH, graph.read_bytes())
    sync_folder(out)
    shipped = Graph(out / GRAPH, kind=student.kind)
    return Exported(
        graph=out / GRAPH,
        weights=out / WEIGHTS,
        kind=student.kind,
        input_name=shipped.name,
        width=shipped.width,
        temperature=temperature,
        quantisation=_QUANTISATIONS[kept.name],
        reason=reason,
        parity=parity,
        parameters=student.parameters,
        codes_kept=codes_kept,
    )


_QUANTISATIONS: dict[str, Quantisation] = {"int8.onnx": "int8", "dynamic.onnx": "int8-dynamic", "plain.onnx": "fp32"}


def _quantise(
    plain: Path, floats: list[str], *, student: Student, fit: Samples, choose: Samples, module_logits: NDArray[np.float32], budget: float
) -> tuple[Path, str]:
    """The most compact file that keeps within the budget, and why it is no static int8. Nodes named in `floats` stay as they are."""
    reasons = []
    for file, make in (("int8.onnx", _static), ("dynamic.onnx", _dynamic)):
        path = plain.with_name(file)
        try:
            with quiet(), quantiser_kept_off_the_root_logger():
                make(plain, path, floats, student, fit)
            logits_NK = Graph(path, kind=student.kind).logits(choose.inputs)
        except Exception as error:  # noqa: BLE001 - a user's graph may hold what the quantiser does not know; then it ships unquantised
            reasons.append(f"{_QUANTISATIONS[file]} failed ({type(error).__name__}: {error})"[:200])
            continue
        strange, loss = len(not_finite(logits_NK)), _loss_of(logits_NK, module_logits, choose)
        near = _nats_between(module_logits, logits_NK) <= NATS_LOST and _as_right(logits_NK, module_logits, choose, budget=budget)
        if not strange and (loss <= budget or near):
            return path, "; ".join(reasons)
        trouble = (
            f"answers {strange} samples of choose with no finite numbers"
            if strange
            else f"loses {loss:.4f} on choose, more than {budget:.4f}"
        )
        reasons.append(f"{_QUANTISATIONS[file]} {trouble}")
    return plain, "; ".join(reasons)


def _near(
    quantised: Path,
    graph: Path,
    incumbent: Path,
    *,
    student: Student,
    fit: Samples,
    choose: Samples,
    module_logits: NDArray[np.float32],
    budget: float,
) -> tuple[Path, Path, float] | None:
    """Graph and weights as near to the incumbent's as can be afforded, and the share of codes that stay; None where that is nothing."""
    alone, old = (_nats_between(module_logits, Graph(path, kind=student.kind).logits(choose.inputs)) for path in (graph, incumbent))
    most_nats = alone + MOVE_SPENT * old
    model, floats = onnx.load(str(quantised)), trained_tensors(onnx.load(str(quantised.with_name(PREPARED))))
    before = trained_tensors(onnx.load(str(incumbent)))
    importance = by_tensor(student, fisher_diagonal(student, fit), floats)
    found: tuple[Path, Path, float] | None = None
    low, high = 0, len(PRICES) - 1
    while low <= high:
        number = (low + high) // 2
        rounded = round_toward(model, floats=floats, incumbent=before, importance=importance, price=PRICES[number])
        near_graph, near_weights = split(rounded.model, quantised.with_name(f"near-{number}"))
        logits = Graph(near_graph, kind=student.kind).logits(choose.inputs)
        if _as_right(logits, module_logits, choose, budget=budget) and _nats_between(module_logits, logits) <= most_nats:
            found, low = (near_graph, near_weights, rounded.codes_kept), number + 1
        else:
            high = number - 1
    return found


def _as_right(logits_NK: NDArray[np.float32], module_NK: NDArray[np.float32], choose: Samples, *, budget: float) -> bool:
    """Whether the accuracy lost is within the budget and chance (95 %, paired); where there are no labels, within the budget alone."""
    if not choose.labelled:
        return _loss_of(logits_NK, module_NK, choose) <= budget
    file_N, module_N = (right(answers, choose.hard_N) for answers in (logits_NK, module_NK))
    chance = 1.96 * float(np.sqrt((file_N != module_N).sum())) / len(choose)
    return float(module_N.mean() - file_N.mean()) <= budget + chance


def _nats_between(module_NK: NDArray[np.float32], logits_NK: NDArray[np.float32]) -> float:
    """Mean KL(module || file)."""
    said_NK = log_softmax(module_NK)
    return float((np.exp(said_NK) * (said_NK - log_softmax(logits_NK))).sum(axis=1).mean())


def _static(plain: Path, path: Path, floats: list[str], student: Student, fit: Samples) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    prepared = plain.with_name(PREPARED)
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    rows = fit.inputs[:CALIBRATION_ROWS]
    batches = [encode(rows[start : start + 32], kind=student.kind, width=student.width) for start in range(0, len(rows), 32)]
    quantize_static(
        str(prepared),
        str(path),
        _Calibration(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=QUANTISED_OPS,
        nodes_to_exclude=floats,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gather", "Gemm", "MatMul"]},
    )
    onnx.save_model(with_headroom(onnx.load(str(path)), floats=trained_tensors(onnx.load(str(prepared)))), str(path))


def _dynamic(plain: Path, path: Path, floats: list[str], student: Student, fit: Samples) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(plain),
        str(path),
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=floats,
    )


class _Calibration:
    """Batches in the reading protocol of onnxruntime's calibrator."""

    def __init__(self, batches: list[NDArray[Any]]) -> None:
        self._rest = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._rest, None)
        return None if batch is None else {"input": batch}

    def __iter__(self) -> "_Calibration":
        return self

    def __next__(self) -> dict[str, NDArray[Any]]:
        return {"input": next(self._rest)}


def _module_logits(name: str, student: Student, samples: Samples) -> NDArray[np.float32]:
    """Raises AnswersNotFiniteError."""
    student.module.eval()
    with torch.no_grad():
        chunks = [
            student.module(torch.from_numpy(encode(samples.inputs[start : start + 64], kind=student.kind, width=student.width))).numpy()
            for start in range(0, len(samples), 64)
        ]
    return _finite(name, np.concatenate(chunks), samples)


def _finite(name: str, logits_NK: NDArray[np.float32], samples: Samples) -> NDArray[np.float32]:
    """The same. Raises AnswersNotFiniteError: neither such a module nor such a file has anything to ship."""
    strange = not_finite(logits_NK)
    if len(strange):
        raise AnswersNotFiniteError(name, len(strange), len(samples), samples.ids[strange[0]])
    return logits_NK


def _loss_of(logits_NK: NDArray[np.float32], module_NK: NDArray[np.float32], choose: Samples) -> float:
    """Accuracy that the file loses against the module; where there are no labels, the share of samples on which they differ."""
    if choose.labelled:
        return accuracy(module_NK, choose.hard_N) - accuracy(logits_NK, choose.hard_N)
    return 1 - agreement(logits_NK, module_NK)


def _parity(logits_NK: NDArray[np.float32], module_NK: NDArray[np.float32]) -> Parity:
    return Parity(
        samples=len(module_NK),
        max_log_prob_difference=float(np.abs(log_softmax(logits_NK) - log_softmax(module_NK)).max()),
        agreement=agreement(logits_NK, module_NK),
    )


def fitted_temperature(graph: Graph, fit: Samples) -> float:
    """Of the graph's answers: fitted to hard labels where every sample has one, else to what the teacher says, else 1."""
    logits_NK = graph.logits(fit.inputs)
    if fit.labelled:
        return fit_temperature(logits_NK, one_hot(fit.hard_N, logits_NK.shape[1]))
    return 1.0 if fit.teacher_NK is None else fit_temperature(logits_NK, np.exp(fit.teacher_NK))
