"""edge: what a device's agent costs on top of onnxruntime, how fast its socket is, what it holds, how long an update takes.

Students are byte_conv of the spam recipe, exported to int8 by the product itself (untrained: how fast a graph is does not depend on what
it has learned), and the smallest graph there is (one table look-up), which shows the overhead bare. `worker` is the model process's own
code from a decoded request to the bytes of its answer, against bare `run` of the same session; calls take turns, so
that whatever else the machine does hits both. The rest uses the real agent process under real mTLS.
"""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pipeline.releases.bundle import BundleFile, build_bundle
from pipeline.releases.manifest import BundleManifest, Golden, GoldenTolerance, InputSpec
from pipeline.rollout.slots import Slot, Slots
from pipeline.students.export import export_student
from pipeline.students.graph import Graph
from pipeline.students.models import build_student
from tests.bench.compare import Comparison, alone, compare
from tests.kit.agent_process import AgentProcess
from tests.kit.bundles import text_bundle
from tests.kit.fleet_server import FakeFleet
from tests.kit.students import CLASSES, mails, spec
from workers.edge.inputs import encode, softmax
from workers.edge.local_client import LocalDevice
from workers.edge.model_process import ModelProcess
from workers.edge.model_worker import Answerer, open_session
from workers.edge.serving import Serving
from workers.footprint import memory_of
from workers.privacy import opt_out

STUDENTS = {"small": {"width": 64}, "base": {"width": 128, "embedding": 10}}
SMALLEST = "table"
RUNS = 9
CALLS = 2_000
CALLERS = 8
TEXT = "Win a prize, click here. " * 20


def run(*, runs: int = RUNS) -> list[Comparison]:
    """Cases `worker NAME`, `overhead`, `single`, `8 callers`, `socket p50|p99`, `memory agent|model`, `update`."""
    opt_out(os.environ)
    with tempfile.TemporaryDirectory(prefix="kdpipe-edge-") as folder:
        root = Path(folder)
        bundles = {name: _student_bundle(root / name, options, release=1) for name, options in STUDENTS.items()}
        bundles[SMALLEST] = text_bundle(root / SMALLEST)
        slots = {name: Slots(root / "slots").stage(bundle.path, bundle.sha256) for name, bundle in bundles.items()}
        found = [comparison for name, slot in slots.items() for comparison in _worker(name, slot, runs)]
        found += _batching(slots["small"], runs)
        return [*found, *_agent(root, runs)]


def _student_bundle(folder: Path, options: dict[str, int], *, release: int, seed: int = 3) -> BundleFile:
    student = build_student(spec("small", options=options, seed=seed))
    fit, choose = mails(64, seed=1), mails(32, seed=2)
    made = export_student(name="small", student=student, fit=fit, choose=choose, out=folder)
    logits = Graph(made.graph, kind=made.kind).logits(choose.inputs[:8])
    golden = [
        Golden(input=str(text), probabilities=tuple(map(float, row)))
        for text, row in zip(choose.inputs, softmax(logits, 1.0), strict=False)
    ]
    manifest = BundleManifest(
        student="small",
        release=release,
        classes=CLASSES,
        input=InputSpec(kind="text", name=made.input_name, width=made.width),
        temperature=1.0,
        positive=None,
        teacher="none",
        memory_bytes=memory_of(made.graph, kind="text"),
        tolerance=GoldenTolerance(max_probability_difference=0.01),
    )
    return build_bundle(folder / f"{release}.kdpb", manifest=manifest, graph=made.graph, weights=made.weights, golden=golden)


def _worker(name: str, slot: Slot, runs: int) -> Iterator[Comparison]:
    """Batch 1, in this process: what the model process does between a decoded request and its answer."""
    spec_, batch = slot.manifest.input, encode(slot.manifest.input, [TEXT])
    payload = batch.tobytes()
    bare = open_session(str(slot.graph))  # one for both: two sessions lie differently in memory, which is worth some per cent
    answerer, names = Answerer(bare, spec_.name, spec_.kind), [bare.get_outputs()[0].name]

    def answer() -> None:
        answerer.room(*batch.shape)[:] = payload
        answerer.answer()

    mine_s, bare_s = _in_turn(answer, lambda: bare.run(names, {spec_.name: batch}), runs)
    yield compare(name="edge", case=f"worker {name}", unit="s", ours=mine_s, against="bare onnxruntime", theirs=bare_s)
    if name == SMALLEST:
        over = statistics.median(mine - other for mine, other in zip(mine_s, bare_s, strict=True))
        yield alone(name="edge", case="overhead", unit="us", figure=over * 1e6, n=runs)


def _in_turn(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> tuple[list[float], list[float]]:
    """Median seconds a call, run by run; the two take turns call by call, and in who goes first."""
    medians_s = []
    for _ in range(runs + 1):
        taken_s = np.empty((CALLS, 2))
        for call in range(CALLS):
            for which in (0, 1) if call % 2 else (1, 0):
                began = time.perf_counter()
                (ours, theirs)[which]()
                taken_s[call, which] = time.perf_counter() - began
        medians_s.append(np.median(taken_s, axis=0))
    counted_s = np.array(medians_s[1:])  # the first warms up
    return counted_s[:, 0].tolist(), counted_s[:, 1].tolist()


def _batching(slot: Slot, runs: int) -> list[Comparison]:
    """Answers through `Serving`, which lets callers share runs of the model, against callers that queue for it one by one."""
    serving, queue = Serving(ModelProcess.start), ModelProcess.start(slot)
    serving.serve(slot)
    lock = threading.Lock()

    def shared() -> None:
        serving.predict([TEXT])

    def one_by_one() -> None:
        batch = encode(slot.manifest.input, [TEXT])
        with lock:
            logits = queue.run(batch)
        softmax(logits.logits_BK, slot.manifest.temperature)

    try:
        single = _in_turn(shared, one_by_one, runs)
        crowd = [(_crowd_per_s(shared), _crowd_per_s(one_by_one)) for _ in range(runs)]
    finally:
        serving.close()
        queue.close()
    against = "one by one"
    return [
        compare(name="edge", case="single", unit="s", ours=single[0], against=against, theirs=single[1]),
        compare(
            name="edge", case=f"{CALLERS} callers", unit="answers/s",
            ours=[mine for mine, _ in crowd], against=against, theirs=[other for _, other in crowd],
        ),
    ]  # fmt: skip


def _crowd_per_s(ask: Callable[[], None]) -> float:
    each = CALLS // CALLERS // 2

    def caller() -> None:
        for _ in range(each):
            ask()

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CALLERS * each / (time.perf_counter() - began)


def _agent(root: Path, runs: int) -> Iterator[Comparison]:
    with _device(root) as (agent, update):
        taken_s = [update(generation) for generation in range(1, runs + 2)]
        yield alone(name="edge", case="update", unit="s", figure=statistics.median(taken_s[1:]), n=runs)
        with LocalDevice(agent.folder) as device:
            calls_s = []
            for _ in range(CALLS):
                began = time.perf_counter()
                device.predict([TEXT])
                calls_s.append(time.perf_counter() - began)
        for case, share in (("p50", 0.5), ("p99", 0.99)):
            yield alone(name="edge", case=f"socket {case}", unit="s", figure=float(np.quantile(calls_s, share)), n=CALLS)
        (model,) = _children(agent.process.pid)
        for case, pid in (("agent", agent.process.pid), ("model", model)):
            yield alone(name="edge", case=f"memory {case}", unit="bytes", figure=_resident_bytes(pid), n=1)


@contextmanager
def _device(root: Path) -> Iterator[tuple[AgentProcess, Callable[[int], float]]]:
    """An enrolled device, and what brings it one release further: returns seconds from the offer to the report that it is confirmed.

    It polls every 50 ms and waits 0.1 s for live inputs and 0.1 s in its trial; the rest is work.
    """
    with FakeFleet(root / "fleet", now=datetime.now(UTC)) as fleet:
        agent = AgentProcess(root / "device", fleet.enrolment_file(root / "enrolment.json"))

        def update(generation: int) -> float:
            bundle = _student_bundle(root / f"release-{generation}", STUDENTS["small"], release=generation, seed=generation)
            target = fleet.trust.publish(bundle, release=generation, now=fleet.now)
            began = time.perf_counter()
            fleet.assign("d-1", target, generation=generation)
            fleet.wait_for(lambda: fleet.states("d-1", generation)[-1:] == ["CONFIRMED"])
            return time.perf_counter() - began

        try:
            yield agent, update
        finally:
            agent.kill()


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def _resident_bytes(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
