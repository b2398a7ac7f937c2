"""An elastic student on a cluster that grows and shrinks under it: one worker, two, one, and the training of one worker all the way."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

import workers.training
from pipeline.config import StudentSection
from pipeline.labels.store import open_store
from pipeline.students.checkpoint import load_trained, load_weights
from pipeline.students.scaling import TRAINER
from tests.kit.labelling import Bench, MemorySource
from tests.kit.training import training_spec
from workers.board import Board, TrainingState, start_board
from workers.teaching import teach
from workers.training import train_student

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROWS, BATCH, STEPS = 360, 9, 80
"""Two epochs. Two workers have five and four rows of a batch."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    monkeypatch.setattr(workers.training, "RESIZE_EVERY_S", 2.0)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {TRAINER: 1}, "include_dashboard": False})
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def label_until(bench: Bench, rows: int) -> None:
    """At least so many; all where that is all."""
    stop = threading.Event()
    bench.run(stop=stop, on_progress=lambda now: stop.set() if now.rows_committed >= rows and rows < ROWS else None)


def wait_until(holds: Callable[[], bool], what: str, board: Board) -> None:
    until_s = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < until_s, f"not {what}: {board.snapshot()}"
        time.sleep(0.1)  # another process's progress; there is nothing to wait on


def wait_for_workers(board: Board, workers: int, *, past_row: int = 0) -> None:
    def holds() -> bool:
        progress = board.snapshot().get("small")
        return progress is not None and progress.starved and progress.workers == workers and progress.live_rows > past_row

    wait_until(holds, f"{workers} workers past row {past_row}", board)


class _Deaf:
    def report(self, student: str, progress: object) -> bool:
        return True


def test_a_student_follows_the_cluster_from_one_worker_to_two_and_back_and_learns_what_one_would(cluster: Cluster, tmp_path: Path) -> None:
    section = StudentSection(
        options={"max_bytes": 32, "width": 8, "embedding": 4}, batch=BATCH, steps=STEPS, warmup_steps=2, checkpoint_every_steps=5,
        workers=(1, 2),
    )  # fmt: skip
    spec, board = training_spec(tmp_path, section), start_board()
    (tmp_path / "labels").mkdir()
    bench = Bench(
        open_store(spec.store_url), MemorySource({"mail": [f"mail {row}" + "!" * (row % 5) for row in range(ROWS)]}), unit_rows=16
    )
    with ThreadPoolExecutor() as threads:
        task = threads.submit(train_student, spec, board=board)
        label_until(bench, ROWS // 3)
        wait_for_workers(board, 1, past_row=BATCH)
        node = cluster.add_node(num_cpus=1, resources={TRAINER: 1})
        wait_for_workers(board, 2)
        before = board.snapshot()["small"].live_rows
        label_until(bench, 2 * ROWS // 3)
        wait_for_workers(board, 2, past_row=before)
        cluster.remove_node(node)
        wait_until(lambda: board.snapshot()["small"].state is TrainingState.STARTING, "said that it starts again", board)
        assert not board.snapshot()["small"].in_training, "its cursor holds nobody back while it is away"
        wait_for_workers(board, 1)
        label_until(bench, ROWS)
        outcome = task.result(timeout=200)
    assert outcome.trained is not None
    assert (outcome.trained.steps, outcome.trained.live_rows, outcome.trained.rows) == (STEPS, ROWS, STEPS * BATCH)
    alone = training_spec(tmp_path, section, name="alone")
    alone = type(spec)(**{**vars(alone), "name": spec.name, "storage": tmp_path / "alone"})
    teach(alone, board=_Deaf(), clock=time.monotonic, wall_clock=time.time, sleep=time.sleep)
    expected, trained = load_weights(alone.out), load_trained(alone.out)
    assert trained is not None
    for name, weights in load_weights(spec.out).items():
        assert weights.allclose(expected[name], atol=1e-4), f"{name}: it read other samples, or in another order"
    assert outcome.trained.history[-1][1] == pytest.approx(trained.history[-1][1], abs=1e-5)
