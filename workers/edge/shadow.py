"""The candidate beside the incumbent, before the switch: same inputs, no influence on any answer.

Live inputs that the device answered lately, and the candidate's golden samples. Each model runs in a process of its own at low
priority, one after the other, so that at most one model more than the answering one is in memory. An incumbent that does not survive the
comparison is no fault of the candidate's, which may be the cure: then its golden samples decide alone.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.releases.golden import golden_misses
from pipeline.rollout.device import Shadow
from pipeline.rollout.slots import Slot
from workers.edge.inputs import Input, encode, softmax
from workers.edge.model_process import ModelDiedError, ModelRefusedError
from workers.edge.serving import Model, StartModel

logger = logging.getLogger(__name__)
NICENESS = 10

# B batch, K classes.


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one model said, and how long each answer took."""

    probabilities_BK: NDArray[np.float32]
    latency_ms_B: NDArray[np.float64]
    memory_bytes: int


def run_model(model: Model, inputs: Sequence[Input], clock: Callable[[], float] = time.perf_counter) -> Run:
    """Answer inputs one by one, as a device does. Raises ModelDiedError, ModelRefusedError."""
    rows, latencies = [], []
    for value in inputs:
        started = clock()
        logits = model.run(encode(model.slot.manifest.input, [value]))
        rows.append(softmax(logits.logits_BK, model.slot.manifest.temperature)[0])
        latencies.append((clock() - started) * 1000)
    return Run(probabilities_BK=np.stack(rows), latency_ms_B=np.asarray(latencies), memory_bytes=model.memory_bytes())


def compare(start: StartModel, *, incumbent: Slot, candidate: Slot, live: Sequence[Input]) -> tuple[Shadow, str | None]:
    """Evidence, and why the golden samples miss (None if they do not).
    Live inputs count only if both releases take the same input. Raises ModelDiedError, ModelRefusedError, of the candidate.
    """
    same_input = incumbent.manifest.input.kind == candidate.manifest.input.kind
    if same_input and candidate.manifest.input.kind == "floats":
        same_input = incumbent.manifest.input.width == candidate.manifest.input.width
    golden: list[Input] = [sample.input for sample in candidate.golden]
    shared = [*(live if same_input else ()), *(golden if same_input else ())]
    before = None
    try:
        before = _once(start, incumbent, shared) if shared else None
    except (ModelDiedError, ModelRefusedError) as error:
        logger.warning("the incumbent fails beside the candidate: not compared", extra={"reason": str(error)})
        shared = []
    after = _once(start, candidate, shared or golden)
    agreed = 0
    if before is not None:
        old = [incumbent.manifest.classes[k] for k in before.probabilities_BK.argmax(axis=1)]
        new = [candidate.manifest.classes[k] for k in after.probabilities_BK.argmax(axis=1)]
        agreed = sum(a == b for a, b in zip(old, new, strict=True))
    evidence = Shadow(
        samples=len(shared),
        agreed=agreed,
        latency_p50_ms=float(np.quantile(after.latency_ms_B, 0.5)),
        latency_p99_ms=float(np.quantile(after.latency_ms_B, 0.99)),
        incumbent_latency_p50_ms=float(np.quantile(before.latency_ms_B, 0.5)) if before is not None else 0.0,
        memory_bytes=after.memory_bytes,
        golden_only=before is None or not live,
    )
    return evidence, golden_misses(candidate.golden, after.probabilities_BK[-len(golden) :], candidate.manifest.tolerance)


def _once(start: StartModel, slot: Slot, inputs: Sequence[Input]) -> Run:
    model = start(slot, NICENESS)
    try:
        return run_model(model, inputs)
    finally:
        model.close()
