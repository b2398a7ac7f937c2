"""What a training that ended without weights comes to. Ray's part is left out: `tests/e2e/test_training_on_ray.py`."""

from pathlib import Path

import pytest

import workers.training
from pipeline.config import StudentSection
from pipeline.labels.reader import LogEmptyError
from tests.kit.training import training_spec
from workers.board import BoardState, TrainingState
from workers.training import TrainingFailedError, TrainingSpec, train_student


def spec_in(folder: Path) -> TrainingSpec:
    return training_spec(folder, StudentSection(steps=5))


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
