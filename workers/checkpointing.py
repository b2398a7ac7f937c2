"""Checkpoints that are written while training goes on: by one thread, at most one under way.

The state is a copy from the moment it is handed over (`loop.Trainer.state`), so what is written is that step's, whichever step training
has come to. What could not be written is kept, and written again when asked. Until a state has settled it may be lost, and then the
newest checkpoint is the one before: whoever must not lose it settles it. Left to others: how a state becomes a file that is whole or
not there (`pipeline.students.checkpoint`), and what to do about a full disk (`workers.teaching`).
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

State = Mapping[str, Any]


class Checkpointing:
    """`begin`, then `settle` before the next `begin`; `close` at the end. All in one thread."""

    def __init__(self, write: Callable[[State], object]) -> None:
        self._write = write
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._state: State | None = None
        self._under_way: Future[object] | None = None

    @property
    def settled(self) -> bool:
        """Every state that was handed over is durable, as far as `settle` was told."""
        return self._state is None

    @property
    def writing(self) -> bool:
        """A write is under way: `settle` would wait for it."""
        return self._under_way is not None and not self._under_way.done()

    def begin(self, state: State) -> None:
        """Write it, in the thread."""
        if not self.settled:
            raise RuntimeError("a checkpoint that has not settled yet would be lost")
        self._state = state
        self._under_way = self._pool.submit(self._write, state)

    def settle(self) -> None:
        """Wait until the state is durable. Raises what writing it raised; called again then, writes it again."""
        if self._state is None:
            return
        under_way, self._under_way = self._under_way or self._pool.submit(self._write, self._state), None
        under_way.result()
        self._state = None

    def close(self) -> None:
        """End the thread, when what is under way is written; whether that went well is `settle`'s to say."""
        self._pool.shutdown()
