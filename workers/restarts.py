"""Tells the board when Ray Train ends a student's workers and starts them again.

Between the end of a worker and the first word of the next, the board would have the student in training, and its last cursor would hold
the teachers back for as long: for ever, where the cluster has no room for it any more. Runs in Ray Train's controller.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.train import UserCallback

from workers.board import Board, TrainingState


class TellsOfRestarts(UserCallback):
    """For one student."""

    def __init__(self, name: str, board: Board) -> None:
        self._name, self._board = name, board

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
        progress = self._board.snapshot().get(self._name)
        if progress is None or self._board.error(self._name) is not None:
            return
        error = next(iter(worker_exceptions.values()))
        says = f"a worker ended ({type(error).__name__}); it starts again from the newest checkpoint"
        self._board.report(self._name, replace(progress, state=TrainingState.STARTING, workers=0, corrupt=(), says=says))
