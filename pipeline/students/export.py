"""From a trained module to the file that ships: ONNX with everything inside, int8 where that costs nothing, checked on real samples.

    module -> torch.onnx (dynamo) -> static QDQ int8 (S8S8, per channel) -> graph.onnx + weights.bin

`graph.onnx` is fixed for a student's architecture: two trainings differ in `weights.bin` alone, which holds every trained value,
scales included. (Shapes and axes, which are not trained, stay in the graph, where the runtime needs them to plan.) Paths and
stack traces are removed. Matrix products keep their float outputs, so that logits are not rounded to 8 bits.

int8 is kept if it loses at most `budget` of the module's accuracy on `choose` (agreement with the module where labels are too few), or if
what it loses may be chance (95 %, paired) and its answers are the module's but for `NATS_LOST`: one sample of a hundred is beyond many a
budget; otherwise dynamic int8, then fp32, take its place. A file of which less than `INT8_SHARE_MIN` is int8 is no int8 file: quantisers
pass over what they do not know (recurrent layers, einsum) and say nothing. `Exported.reason` says what there is to know of all this. A
student with an incumbent of the same graph keeps its scales and as many of its codes as cost it little (`rounding`), so that devices get by
with a small delta: no accuracy beyond `budget` and chance, and answers that are no further from the module's than those of int8 and a tenth
of the incumbent's distance.

The graph's output is logits. The temperature, fitted on `fit` with the file that ships, travels beside it, in the manifest:
softmax(logits / temperature).

A crash leaves a temporary folder `.tmp-*` and no `graph.onnx`, or both files complete: the graph is renamed into place last.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from pipeline.files import sync_folder, write_atomic
from pipeline.inputs import InputKind, encode
from pipeline.students.answering import checked_finite, not_finite
from pipeline.students.fidelity import Parity, as_right, loss_basis, loss_of, nats_between, parity_of
from pipeline.students.graph import Graph, GraphInvalidError
from pipeline.students.importance import by_tensor, fisher_diagonal
from pipeline.students.models import Student
from pipeline.students.onnx_file import GRAPH, WEIGHTS, quantiser_kept_off_the_root_logger, quiet, split, to_onnx
from pipeline.students.quantisers import PREPARED, dynamic_int8, held, static_int8
from pipeline.students.rounding import round_toward, trained_tensors
from pipeline.students.samples import Samples
from pipeline.students.temperature import fitted_temperature

Quantisation = Literal["int8", "int8-dynamic", "fp32"]
INT8_SHARE_MIN, INT8_SHARE_TOLD = 0.1, 0.75
"""Of a file's weights, the share in int8 below which it is no int8 file, and the one below which the share is told: of an ordinary small
transformer norms and positions are a tenth."""
NATS_LOST = 0.005
"""KL(module || int8) on `choose` up to which a loss of accuracy can be chance."""
PRICES = (0.0, *(2.0 ** (half / 2) for half in range(-80, 1)))
"""Nats that a bit of the delta may cost, least first."""
MOVE_SPENT = 0.1
"""Of the distance in nats that training moved the answers, the share that keeping the incumbent's codes may cost."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A graph with its weights, and what a device must know to run it."""

    graph: Path
    weights: Path
    kind: InputKind
    input_name: str
    width: int
    temperature: float
    temperature_basis: str
    """What the temperature was fitted to, for a person."""
    quantisation: Quantisation
    int8_share: float
    """Of the weights, without those that the module wants in floats."""
    loss_basis: str
    """By what the loss of int8 was counted, for a person."""
    reason: str
    """What there is to know of that: why it is no static int8, what is in floats, what int8 loses. Empty where it is as it should be."""
    parity: Parity
    parameters: int
    codes_kept: float
    """Share of int8 codes that are the incumbent's; 0 where it was rounded without one."""

    @property
    def notes(self) -> list[str]:
        """The reason in a sentence for a person, if there is one."""
        return [f"exported as {self.quantisation}: {self.reason}"] if self.reason else []

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
        int8_share = held(model, floats).int8_share
        graph, weights = split(model, folder / "split")
        codes_kept = 0.0
        if incumbent is not None and kept.name == "int8.onnx" and incumbent.read_bytes() == graph.read_bytes():
            near = _near(kept, graph, incumbent, student=student, fit=fit, choose=choose, module_logits=module_logits, budget=budget)
            if near is not None:
                graph, weights, codes_kept = near
        ships = Graph(graph, kind=student.kind)
        parity = parity_of(checked_finite(name, ships.logits(choose.inputs), choose.ids), module_logits)
        fitted = fitted_temperature(name, ships.logits(fit.inputs), fit)
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
        temperature=fitted.temperature,
        temperature_basis=fitted.basis,
        quantisation=_QUANTISATIONS[kept.name],
        int8_share=int8_share,
        loss_basis=loss_basis(choose),
        reason=reason,
        parity=parity,
        parameters=student.parameters,
        codes_kept=codes_kept,
    )


_QUANTISATIONS: dict[str, Quantisation] = {"int8.onnx": "int8", "dynamic.onnx": "int8-dynamic", "plain.onnx": "fp32"}


def _quantise(
    plain: Path, floats: list[str], *, student: Student, fit: Samples, choose: Samples, module_logits: NDArray[np.float32], budget: float
) -> tuple[Path, str]:
    """The most compact file that keeps within the budget, and what a person should know of it. Nodes named in `floats` stay as they are."""
    reasons = []
    for file, make in (("int8.onnx", static_int8), ("dynamic.onnx", dynamic_int8)):
        path, name = plain.with_name(file), _QUANTISATIONS[file]
        try:
            with quiet(), quantiser_kept_off_the_root_logger():
                make(plain, path, floats, student, fit)
            weights = held(onnx.load(str(path)), floats)
            graph = Graph(path, kind=student.kind)
            logits_NK, strange_in_fit = graph.logits(choose.inputs), len(not_finite(graph.logits(fit.inputs)))
        except Exception as error:  # noqa: BLE001 - a user's graph may hold what the quantiser does not know; then it ships unquantised
            said = error.found if isinstance(error, GraphInvalidError) else str(error)  # its path is gone when somebody reads this
            reasons.append(f"{name} failed ({type(error).__name__}: {' '.join(said.split())})"[:200])
            continue
        strange, loss, nats = len(not_finite(logits_NK)), loss_of(logits_NK, module_logits, choose), nats_between(module_logits, logits_NK)
        lost = f"{name} loses {loss:.4f} on choose, more than {budget:.4f}"
        if strange or strange_in_fit:
            part, count = ("choose", strange) if strange else ("fit", strange_in_fit)
            reasons.append(f"{name} answers {count} samples of {part} with no finite numbers")
        elif weights.int8_share < INT8_SHARE_MIN:
            reasons.append(f"{name} rounds {weights}")
        elif loss > budget and not (nats <= NATS_LOST and as_right(logits_NK, module_logits, choose, budget=budget)):
            reasons.append(lost)
        else:
            may_be_chance = f"{lost}, which may be chance (95 %, paired): its answers are {nats:.4f} nats off"
            chance = [may_be_chance] if loss > budget else []
            partly = [f"{name} holds {weights}"] if weights.int8_share < INT8_SHARE_TOLD else []
            return path, "; ".join([*reasons, *chance, *partly])
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
    alone, old = (nats_between(module_logits, Graph(path, kind=student.kind).logits(choose.inputs)) for path in (graph, incumbent))
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
        if as_right(logits, module_logits, choose, budget=budget) and nats_between(module_logits, logits) <= most_nats:
            found, low = (near_graph, near_weights, rounded.codes_kept), number + 1
        else:
            high = number - 1
    return found


def _module_logits(name: str, student: Student, samples: Samples) -> NDArray[np.float32]:
    """Raises AnswersNotFiniteError."""
    student.module.eval()
    with torch.no_grad():
        chunks = [
            student.module(torch.from_numpy(encode(samples.inputs[start : start + 64], kind=student.kind, width=student.width))).numpy()
            for start in range(0, len(samples), 64)
        ]
    return checked_finite(name, np.concatenate(chunks), samples.ids)
