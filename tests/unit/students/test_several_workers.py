"""Several workers of one student, as threads that add up over a barrier: none is left waiting for another."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.labels.log import LogReader
from pipeline.labels.order import batch_span, epoch_order, pieces, rank_slice
from pipeline.labels.store import open_store
from pipeline.students.checkpoint import Trained, load_weights
from pipeline.students.models import Student, StudentSpec, build_student
from tests.kit.labelling import Bench, MemorySource
from tests.kit.ranks import Reduce, in_ranks
from tests.kit.students import section
from tests.kit.training import Clock, Watched, training_spec
from workers import teaching
from workers.board import BoardState, TrainingState
from workers.driver.learning import demand_of
from workers.teaching import Reports, TrainingSpec, teach
from workers.training import Follower

WORLD, BATCH = 2, 8


@pytest.fixture(autouse=True)
def _one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students are built from torch's one generator, which processes do not share and threads do."""
    lock = threading.Lock()

    def build(spec: StudentSpec) -> Student:
        with lock:
            return build_student(spec)

    monkeypatch.setattr(teaching, "build_student", build)


def labels_in(folder: Path) -> Bench:
    """In units of 5, so that batches of 8 straddle windows."""
    (folder / "labels").mkdir()
    texts = {"mail": [f"mail {number}" for number in range(60)]}
    bench = Bench(open_store(str(folder / "labels")), MemorySource(texts), unit_rows=5)
    bench.run()
    return bench


def spec_in(folder: Path) -> TrainingSpec:
    return training_spec(folder, section(batch=BATCH, steps=20, checkpoint_every_steps=5))


def together(spec: TrainingSpec, boards: list[Reports], sleep: Callable[[float], None] = time.sleep) -> list[Trained | None]:
    """What each worker comes to."""

    def work(rank: int, reduce: Reduce) -> Trained | None:
        board = boards[rank]
        return teach(spec, board=board, clock=Clock(), wall_clock=time.time, sleep=sleep, rank=rank, world=WORLD, reduce=reduce)

    return in_ranks(WORLD, work)


def shard_of_rank_1_alone(bench: Bench) -> str:
    """The first shard of the live pass that rank 1 needs for a batch which rank 0 needs it not for."""
    state = LogReader(bench.store).refresh()
    order = epoch_order(state, generation=1, epoch=0, seed=3)
    for position in range(0, order.rows, BATCH):
        span = batch_span(order, position, BATCH)
        assert span is not None
        needed = [{piece.window for piece in pieces(order, *rank_slice(*span, rank=rank, world=WORLD))} for rank in range(WORLD)]
        if needed[1] - needed[0]:
            return state.commits[state.windows[max(needed[1])].first_commit].shard.key
    raise AssertionError("no batch straddles two windows")


def test_a_bad_shard_that_only_another_rank_meets_is_told_and_repaired_while_rank_0_waits_for_it(tmp_path: Path) -> None:
    bench, state = labels_in(tmp_path), BoardState()
    whole = replace(spec_in(tmp_path), storage=tmp_path / "whole", out=tmp_path / "whole.pt")
    together(whole, [Watched(), Watched()])
    bad = shard_of_rank_1_alone(bench)
    path = tmp_path / "labels" / bad
    path.write_bytes(bytes(reversed(path.read_bytes())))
    told: list[frozenset[str]] = []

    def sleep(seconds: float) -> None:
        corrupt = demand_of(state.snapshot()).corrupt
        if corrupt and not told:
            told.append(corrupt)
            bench.labelling().repair(corrupt, progress=lambda _: None, stop=threading.Event())
        time.sleep(0.001)

    board: Any = state
    found = together(spec_in(tmp_path), [board, Follower(board, rank=1)], sleep)
    assert [trained.steps for trained in found if trained] == [20, 20]
    assert told == [{bad}]
    assert not demand_of(state.snapshot()).corrupt, "what is repaired is not asked for again"
    mine, other = load_weights(spec_in(tmp_path).out), load_weights(whole.out)
    assert all(mine[key].equal(other[key]) for key in mine)


def test_workers_that_are_told_to_stop_end_after_the_same_step_and_go_on_to_the_same_weights(tmp_path: Path) -> None:
    labels_in(tmp_path)
    whole = replace(spec_in(tmp_path), storage=tmp_path / "whole", out=tmp_path / "whole.pt")
    together(whole, [Watched(), Watched()])
    boards = [Watched(lambda progress: progress.step < 8), Watched()]  # one hears of it, the other does not yet
    assert together(spec_in(tmp_path), [*boards]) == [None, None]
    assert [board.seen[-1].state for board in boards] == [TrainingState.STOPPED, TrainingState.STOPPED]
    assert boards[0].seen[-1].step == boards[1].seen[-1].step < 12
    again = Watched()
    together(spec_in(tmp_path), [again, Watched()])
    assert again.seen[0].step == boards[0].seen[-1].step
    mine, other = load_weights(spec_in(tmp_path).out), load_weights(whole.out)
    assert all(mine[key].equal(other[key]) for key in mine)
