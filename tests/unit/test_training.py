"""What a training that ended without weights comes to. Ray's part is left out: `tests/e2e/test_training_on_ray.py`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.train import WorkerGroupError

import workers.training
from pipeline.config import StudentSection
from pipeline.labels.log import LogWriter
from pipeline.labels.reader import LogEmptyError
from pipeline.labels.store import LocalStore
from pipeline.students.checkpoint import save_checkpoint
from pipeline.students.faults import NotFiniteElsewhereError
from pipeline.students.scaling import Scale
from tests.kit.training import training_spec
from workers.board import BoardState, TrainingProgress, TrainingState
from workers.driver.learning import demand_of
from workers.restarts import TellsOfRestarts
from workers.sharing import FolderNotSharedError, StoreNotSharedError, proof_in
from workers.training import TrainingFailedError, TrainingSpec, train_student, unscheduled, work


def spec_in(folder: Path) -> TrainingSpec:
    return training_spec(folder, StudentSection(steps=5))


FIT = workers.training._fit


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.training, "_fit", lambda spec, board: None)  # the workers have ended


def test_a_worker_that_ended_without_a_result_and_unasked_is_an_error_that_says_run_again(tmp_path: Path) -> None:
    """Its own error went to a board that was lost since: that must not look like a stop."""
    with pytest.raises(TrainingFailedError, match=r"student small: its worker ended without a result.*run again"):
        train_student(spec_in(tmp_path), board=BoardState())  # type: ignore[arg-type]  # a board without an actor


def test_a_worker_that_was_asked_to_stop_has_stopped(tmp_path: Path) -> None:
    board = BoardState()
    board.stop()
    outcome = train_student(spec_in(tmp_path), board=board)  # type: ignore[arg-type]
    assert (outcome.state, outcome.trained) == (TrainingState.STOPPED, None)


def test_an_error_on_the_board_is_raised_even_where_a_stop_was_asked_for(tmp_path: Path) -> None:
    board = BoardState()
    board.stop()
    board.fail("small", LogEmptyError())
    with pytest.raises(LogEmptyError):
        train_student(spec_in(tmp_path), board=board)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("elsewhere", "error"), [({"storage": "mine"}, FolderNotSharedError), ({"store_url": "mine"}, StoreNotSharedError)]
)
def test_a_worker_on_a_node_without_the_runs_storage_ends_the_training_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: dict[str, str], error: type[Exception]
) -> None:
    """It would wait for ever for labels, or leave its weights where nobody finds them."""
    log = LogWriter.open(LocalStore(tmp_path / "labels"), holder="h", classes=("ham", "spam"), nonce="n", now_unix_s=0).state.log
    seen = []

    def fit(spec: TrainingSpec, board: BoardState) -> None:
        assert (spec.folder / spec.proof).exists()
        seen.append(spec)
        moved: dict[str, Any] = {key: tmp_path / name if key == "storage" else str(tmp_path / name) for key, name in elsewhere.items()}
        work(replace(spec, **moved), board, rank=0, world=1)  # type: ignore[arg-type]

    monkeypatch.setattr(workers.training, "_fit", fit)
    with pytest.raises(error, match=r"/mine\S*: node .* does not see"):
        train_student(spec_in(tmp_path), board=BoardState())  # type: ignore[arg-type]
    assert seen[0].log == log
    assert not (seen[0].folder / seen[0].proof).exists()


def test_a_rank_that_does_not_know_which_samples_were_not_finite_leaves_the_word_to_the_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def teach(spec: TrainingSpec, **_: Any) -> None:
        raise NotFiniteElsewhereError(spec.name)

    monkeypatch.setattr(workers.training, "teach", teach)
    board: Any = BoardState()
    with proof_in(spec_in(tmp_path).folder) as proof:
        work(replace(spec_in(tmp_path), proof=proof), board, rank=0, world=1)
    assert board.error("small") is None


class Dying:
    """A Ray trainer whose workers die too often; each life but those beyond `lives` leaves a newer checkpoint."""

    def __init__(self, spec: TrainingSpec, *, lives: int) -> None:
        self.fits, self._spec, self._lives = 0, spec, lives

    def fit(self) -> None:
        self.fits += 1
        if self.fits <= self._lives:
            save_checkpoint(self._spec.checkpoints, {"step": 5 * self.fits})
        raise WorkerGroupError("a worker died", {0: OSError("gone")})


def test_workers_that_die_again_and_again_are_started_again_for_as_long_as_they_get_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, board = spec_in(tmp_path), BoardState()
    trainer = Dying(spec, lives=4)
    monkeypatch.setattr(workers.training, "_trainer", lambda spec, board: trainer)
    with pytest.raises(TrainingFailedError, match=r"failed 4 times and its newest checkpoint is no newer, last: OSError: gone.*run again"):
        FIT(spec, board)  # type: ignore[arg-type]  # a board without an actor
    assert trainer.fits == 5
    assert board.snapshot()["small"].state is TrainingState.FAILED


def test_workers_that_die_while_they_stop_are_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, board = spec_in(tmp_path), BoardState()
    trainer = Dying(spec, lives=4)
    monkeypatch.setattr(workers.training, "_trainer", lambda spec, board: trainer)
    board.stop()
    FIT(spec, board)  # type: ignore[arg-type]
    assert trainer.fits == 1


def test_a_trainer_without_room_says_what_it_asked_for_and_one_with_room_that_it_is_slow() -> None:
    scale = Scale(least=1, most=4, elastic=True, resources={"CPU": 0.5, "GPU": 1.0, "kd_trainer": 1.0})
    there = {"CPU": 4.0, "GPU": 1.0, "kd_trainer": 2.0}
    assert unscheduled(scale, there=there, free={"CPU": 4.0, "kd_trainer": 2.0}) == (
        "not started in 30 s: asked for 1 to 4 x CPU 0.5, GPU 1, kd_trainer 1; "
        "the cluster has CPU 4 (4 free), GPU 1 (0 free), kd_trainer 2 (2 free)"
    )
    assert unscheduled(scale, there=there, free=there) == "starting for 30 s and more"


def test_while_a_worker_is_away_its_cursor_counts_for_nobody_and_an_error_of_ours_stays_what_ended_it() -> None:
    board: Any = BoardState()
    tells = TellsOfRestarts("small", board)
    tells.after_exception(None, {0: OSError("gone")})
    assert board.snapshot() == {}
    board.report("small", TrainingProgress(state=TrainingState.TRAINING, step=7, live_rows=56, workers=2, corrupt=("shards/a",)))
    tells.after_exception(None, {0: OSError("gone")})
    progress = board.snapshot()["small"]
    assert (progress.state, progress.step, progress.workers) == (TrainingState.STARTING, 7, 0)
    assert progress.says == "a worker ended (OSError); it starts again from the newest checkpoint"
    demand = demand_of(board.snapshot())
    assert not demand.cursors
    assert not demand.corrupt
    board.fail("small", LogEmptyError())
    board.report("small", TrainingProgress(state=TrainingState.FAILED))
    tells.after_exception(None, {0: LogEmptyError()})
    assert board.snapshot()["small"].state is TrainingState.FAILED
