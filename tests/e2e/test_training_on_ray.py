"""Training with real Ray Train workers on two CPUs, beside a teacher's actor, on a real log in a real folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

import workers.training
from pipeline.config import StudentSection
from pipeline.distill.losses import LossUnknownError
from pipeline.labels.store import open_store
from pipeline.students.checkpoint import load_trained, load_weights
from tests.kit.labelling import Bench, MemorySource
from tests.kit.training import training_spec
from workers.board import Board, TrainingProgress, TrainingState, start_board
from workers.local_ray import start_local_ray
from workers.teaching import TrainingSpec, teach
from workers.training import train_student

pytestmark = pytest.mark.timeout(300)

ROWS = 160
LONG = 1500
"""Steps: seconds, in which a worker can be killed in the middle."""
TINY = {"max_bytes": 32, "width": 8, "embedding": 4}
DRIVER = """
import sys
from pathlib import Path

import ray

from tests.e2e.test_training_on_ray import spec_of
from workers.board import start_board
from workers.local_ray import start_local_ray
from workers.training import train_student

if __name__ == "__main__":
    start_local_ray(num_cpus=2)
    train_student(spec_of(Path(sys.argv[1]), "small", steps=int(sys.argv[2])), board=start_board())
    ray.shutdown()
"""


def spec_of(folder: Path, name: str, *, steps: int = 60, **section: Any) -> TrainingSpec:
    options: dict[str, Any] = {"options": TINY, "batch": 8, "steps": steps, "warmup_steps": 2, "checkpoint_every_steps": 10} | section
    return training_spec(folder, StudentSection(**options), name=name)


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    start_local_ray(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def bench_of(folder: Path) -> Bench:
    (folder / "labels").mkdir(exist_ok=True)
    texts = [f"mail {number}" + "!" * (number % 5) for number in range(ROWS)]
    return Bench(open_store(str(folder / "labels")), MemorySource({"mail": texts}), unit_rows=16)


def wait_until(holds: Callable[[], bool], *, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)  # another process's progress; there is nothing to wait on


def weights_alone(folder: Path, spec: TrainingSpec) -> Any:
    """The same training in this process, undisturbed."""
    alone = TrainingSpec(**{**vars(spec), "storage": folder / "alone", "out": folder / "alone" / "weights.pt"})
    trained = teach(alone, board=_Deaf(), clock=time.monotonic, wall_clock=time.time, sleep=time.sleep)
    assert trained is not None
    return load_weights(alone.out)


def assert_same_weights(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].equal(value), key


class _Deaf:
    def report(self, student: str, progress: object) -> bool:
        return True


class _Neighbour:
    """A teacher's actor, as far as the scheduler is concerned."""

    def alive(self) -> bool:
        return True


NEIGHBOUR: Any = ray.remote(num_cpus=1)(_Neighbour)


@pytest.mark.usefixtures("_cluster")
def test_two_students_learn_at_once_beside_a_teacher_while_labels_come(folder: Path) -> None:
    bench, board, seen = bench_of(folder), start_board(), []
    neighbour = NEIGHBOUR.remote()
    assert ray.get(neighbour.alive.remote())
    bench.labelling().plan()
    with ThreadPoolExecutor() as threads:
        tasks = [threads.submit(train_student, spec_of(folder, name), board=board) for name in ("small", "base")]
        wait_until(lambda: len(board.snapshot()) == 2 and all(p.ready for p in board.snapshot().values()))
        seen.append(board.snapshot())
        labels_began_unix_s = time.time()
        bench.run()
        outcomes = [task.result(timeout=300) for task in tasks]
    ray.kill(neighbour)
    assert all(p.starved for p in seen[0].values()), "trainers that are up before the first label say that they wait"
    for outcome in outcomes:
        assert outcome.state is TrainingState.DONE
        assert outcome.trained is not None
        assert (outcome.trained.steps, outcome.trained.live_rows, outcome.trained.rows) == (60, ROWS, 60 * 8)
        assert outcome.trained.first_step_unix_s - labels_began_unix_s < 20
        assert_same_weights(load_weights(outcome.weights), weights_alone(folder / outcome.name, spec_of(folder, outcome.name)))


@pytest.mark.usefixtures("_cluster")
def test_a_killed_worker_goes_on_to_the_same_weights_and_an_error_of_ours_keeps_its_name(folder: Path) -> None:
    bench_of(folder).run()
    board, spec = start_board(), spec_of(folder, "small", steps=LONG, checkpoint_every_steps=50)
    with ThreadPoolExecutor() as threads:
        wrong = threads.submit(train_student, spec_of(folder, "wrong", loss={"kll": 1.0}), board=board)
        with pytest.raises(LossUnknownError, match="no loss named 'kll'; expected known: ce, dist"):
            wrong.result(timeout=200)
        task = threads.submit(train_student, spec, board=board)
        wait_until(lambda: step_of(board) > 100)
        killed_at = step_of(board)
        os.kill(worker_pid(), signal.SIGKILL)
        outcome = task.result(timeout=200)
    assert outcome.trained is not None
    assert outcome.trained.steps == LONG
    assert killed_at < LONG
    assert_same_weights(load_weights(outcome.weights), weights_alone(folder, spec))


DIES = """
import os
import time

import torch


class Dies(torch.nn.Module):
    max_bytes = 16

    def __init__(self, classes):
        super().__init__()
        self.head, self.taken = torch.nn.Linear(16, classes), 0

    def forward(self, inputs):
        self.taken += 1
        if self.taken > 8:
            os._exit(1)
        time.sleep(0.1)  # so that checkpoints are written meanwhile
        return self.head(inputs.float() / 255)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_workers_that_die_more_often_than_ray_allows_go_on_as_long_as_they_get_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.training, "WORKER_RESTARTS", 0)  # a restart takes its time
    bench_of(folder).run()
    (folder / "dies.py").write_text(DIES)
    spec = spec_of(folder, "small", use="dies:Dies", options={}, steps=14, checkpoint_every_steps=3)
    outcome = train_student(spec, board=start_board())
    assert outcome.trained is not None
    assert outcome.trained.steps == 14


@pytest.mark.usefixtures("_cluster")
def test_a_killed_board_is_there_again_and_one_that_is_gone_for_good_raises_nothing() -> None:
    board, progress = start_board(), TrainingProgress(state=TrainingState.TRAINING, step=3)
    board.report("small", progress)
    assert board.snapshot() == {"small": progress}
    ray.kill(board._actor, no_restart=False)
    board.stop()

    def is_told() -> bool:
        board.report("small", progress)  # as trainers do, again and again: one that reaches the board as it dies is lost with it
        return board.snapshot() == {"small": progress}

    wait_until(is_told)
    ray.kill(board._actor)
    board.fail("small", LossUnknownError("students.small.loss", "no loss named 'kll'", "known: kl"))
    assert (board.snapshot(), board.error("small"), board.stopping()) == ({"small": progress}, None, True)
    assert board.report("small", progress) in (True, False)


def step_of(board: Board) -> int:
    progress = board.snapshot().get("small")
    return progress.step if progress else 0


def worker_pid() -> int:
    """The one process of this cluster that is a Ray Train worker."""
    import psutil

    below = psutil.Process().children(recursive=True)
    pids = [process.pid for process in below if "RayTrainWorker" in " ".join(process.cmdline())]
    assert len(pids) == 1, pids
    return pids[0]


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_a_stop_leaves_a_checkpoint_and_the_same_call_goes_on(folder: Path) -> None:
    bench_of(folder).run()
    board, spec = start_board(), spec_of(folder, "small", steps=4000, checkpoint_every_steps=1000)
    with ThreadPoolExecutor() as threads:
        task = threads.submit(train_student, spec, board=board)
        wait_until(lambda: step_of(board) > 20)
        board.stop()
        stopped = task.result(timeout=60)
    assert stopped.state is TrainingState.STOPPED
    assert load_trained(spec.out) is None
    again = start_board()
    assert train_student(spec, board=again).state is TrainingState.DONE
    assert_same_weights(load_weights(spec.out), weights_alone(folder, spec))
    began_s = time.monotonic()
    assert train_student(spec, board=again).state is TrainingState.DONE
    assert time.monotonic() - began_s < 2, "what is trained is not trained again"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_goes_on_from_the_newest_checkpoint(folder: Path) -> None:
    bench_of(folder).run()
    script = folder / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(folder), "1500"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    first = subprocess.Popen(command, env=environment)
    try:
        wait_until(lambda: any((folder / "training").rglob("step-*.pt")))
    finally:
        first.kill()
        first.wait()
    checkpoints = [path.name for path in (folder / "training").rglob("step-*.pt")]
    assert checkpoints
    assert load_trained(spec_of(folder, "small", steps=1500).out) is None
    subprocess.run(command, env=environment, check=True, timeout=400)
    spec = spec_of(folder, "small", steps=1500)
    assert load_trained(spec.out) is not None
    assert_same_weights(load_weights(spec.out), weights_alone(folder, spec))
