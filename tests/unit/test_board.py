"""What trainers tell the driver."""

import pickle
from dataclasses import replace

import pytest
import ray

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


def test_what_other_ranks_find_bad_stands_beside_rank_0s_word_until_their_workers_end() -> None:
    board = BoardState()
    training = TrainingProgress(state=TrainingState.TRAINING, corrupt=("shards/a",))
    board.report("small", training)
    assert board.found_bad("small", 2, ("shards/b",))
    assert board.snapshot()["small"].corrupt == ("shards/a", "shards/b")
    board.report("small", replace(training, corrupt=()))
    assert board.snapshot()["small"].corrupt == ("shards/b",)
    board.found_bad("small", 2, ())
    assert board.snapshot()["small"].corrupt == ()
    board.found_bad("small", 1, ("shards/c",))
    board.report("small", TrainingProgress(state=TrainingState.STARTING))
    assert board.snapshot()["small"].corrupt == ()
    board.stop()
    assert not board.found_bad("small", 1, ())


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


def test_a_lost_board_raises_nowhere_and_its_handle_answers_by_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(reference: object) -> object:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references, []))
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    board, progress = Board(_Actor(BoardState())), TrainingProgress(state=TrainingState.TRAINING, step=7)
    assert board.report("small", progress)
    assert board.snapshot() == {"small": progress}
    board.fail("small", LogEmptyError())
    monkeypatch.setattr(ray, "get", lost)
    assert board.snapshot() == {"small": progress}, "the one seen last"
    assert board.error("small") is None
    board.fail("small", LogEmptyError())
    assert not board.stopping()
    assert board.report("small", progress)
    assert board.report("small", progress), "nobody asked to stop"
    board.stop()
    assert board.stopping(), "this handle knows what it asked for"


def test_a_stop_is_known_to_every_handle_of_a_board_that_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    actor = _Actor(BoardState())
    assert not Board(actor).stopping()
    Board(actor).stop()
    assert Board(actor).stopping()
