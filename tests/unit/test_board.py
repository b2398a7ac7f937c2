"""What trainers tell the driver."""

import pickle

import pytest

from pipeline.labels.reader import LogEmptyError
from workers.board import Board, BoardState, TrainingProgress, TrainingState


def test_the_board_keeps_the_latest_word_of_each_and_passes_a_stop_on() -> None:
    board = BoardState()
    first, second = (TrainingProgress(state=TrainingState.TRAINING, step=step) for step in (1, 2))
    assert board.report("small", first)
    assert board.report("small", second)
    assert board.report("base", first)
    assert board.snapshot() == {"small": second, "base": first}
    board.stop()
    assert not board.report("small", second)
    assert board.error("small") is None
    board.fail("small", LogEmptyError())
    assert isinstance(board.error("small"), LogEmptyError)


@pytest.mark.parametrize(
    ("state", "corrupt", "in_training", "ready", "starved"),
    [
        (TrainingState.STARTING, (), False, False, False),
        (TrainingState.TRAINING, (), True, True, False),
        (TrainingState.WAITING, (), True, True, True),
        (TrainingState.WAITING, ("shard",), True, True, False),
        (TrainingState.DONE, (), False, True, False),
        (TrainingState.STOPPED, (), False, False, False),
        (TrainingState.FAILED, (), False, False, False),
    ],
)
def test_who_counts_for_the_teachers_pace(
    state: TrainingState, corrupt: tuple[str, ...], in_training: bool, ready: bool, starved: bool
) -> None:
    progress = TrainingProgress(state=state, corrupt=corrupt)
    assert (progress.in_training, progress.ready, progress.starved) == (in_training, ready, starved)


class _Call:
    """A method of an actor, answered at once."""

    def __init__(self, method: object) -> None:
        self._method = method

    def remote(self, *arguments: object) -> object:
        return self._method(*arguments)  # type: ignore[operator]


class _Actor:
    def __init__(self, state: BoardState) -> None:
        self.state = state

    def __getattr__(self, name: str) -> _Call:
        return _Call(getattr(self.__dict__["state"], name))


def test_a_handle_sees_a_stop_at_the_report_after_and_travels_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references, []))
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    state = BoardState()
    board, progress = Board(_Actor(state)), TrainingProgress(state=TrainingState.TRAINING)
    assert board.report("small", progress)
    board.stop()
    assert board.report("small", progress), "the answer to the report before the stop"
    assert not board.report("small", progress)
    assert board.snapshot() == {"small": progress}
    again = pickle.loads(pickle.dumps(Board("the actor")))
    assert again._actor == "the actor"
