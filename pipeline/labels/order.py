"""The order in which a student sees samples: a pure function of (log, seed, epoch), whatever the number of readers.

Epoch 0 is the live pass: the windows of one generation, in the order they were sealed. Every later epoch replays all windows from
its replay floor to its end, in an order drawn from (seed, epoch). Within a window the rows, in log order, are permuted by a draw from
(seed, epoch, window). Positions count through the concatenated windows; a batch is a run of positions, of which each rank reads its
slice. Draws sort raw Philox output, which numpy promises never to change (it does not promise that for `permutation`).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.state import LogState


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a student is, inside its checkpoint. The same for all ranks."""

    log: str
    seed: int
    batch: int
    generation: int
    epoch: int
    pos: int
    """Position of the next sample, within the epoch."""

    def at(self, pos: int) -> "Cursor":
        """Another position of the same epoch."""
        return Cursor(log=self.log, seed=self.seed, batch=self.batch, generation=self.generation, epoch=self.epoch, pos=pos)


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The windows of one epoch as far as the log has them."""

    windows_W: NDArray[np.int64]
    stops_W: NDArray[np.int64]
    """Position after each window's last row."""
    closed: bool
    """No window will be added."""

    @property
    def rows(self) -> int:
        return int(self.stops_W[-1]) if self.stops_W.size else 0

    def after(self, window: int) -> int | None:
        """The window that comes after that one; None if that is the last so far."""
        (places,) = np.nonzero(self.windows_W[:-1] == window)
        return int(self.windows_W[places[0] + 1]) if places.size else None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Places [start, stop) of a window's permuted rows."""

    window: int
    start: int
    stop: int


def permutation(length: int, *draw: int) -> NDArray[np.int64]:
    """A permutation of range(length) that depends on nothing but `draw`."""
    key = int.from_bytes(hashlib.blake2b(",".join(map(str, draw)).encode(), digest_size=16).digest(), "little")
    return np.argsort(np.random.Philox(key=key).random_raw(length), kind="stable")


def epoch_order(state: LogState, *, generation: int, epoch: int, seed: int) -> EpochOrder:
    """The order of an epoch's windows. A replay is empty and open until the generation has ended."""
    end = state.ends.get(generation)
    if epoch == 0:
        windows_W = np.arange(state.first_window(generation), len(state.windows) if end is None else end, dtype=np.int64)
    else:
        floor = state.replay_floor(generation)
        windows_W = permutation(max((end or 0) - floor, 0), seed, epoch) + floor
    rows_W = np.array([state.windows[window].rows for window in windows_W.tolist()], dtype=np.int64)
    return EpochOrder(windows_W=windows_W, stops_W=np.cumsum(rows_W), closed=end is not None)


def batch_span(order: EpochOrder, pos: int, batch: int) -> tuple[int, int] | None:
    """Positions of the batch at `pos`: whole, or short at the end of a closed epoch; None if the log is not that far yet."""
    stop = min(pos + batch, order.rows)
    return (pos, stop) if stop - pos == batch or order.closed else None


def rank_slice(start: int, stop: int, *, rank: int, world: int) -> tuple[int, int]:
    """The run of positions that a rank reads. Runs differ by at most one row; a rank may get none."""
    rows = stop - start
    return start + rows * rank // world, start + rows * (rank + 1) // world


def pieces(order: EpochOrder, start: int, stop: int) -> list[Piece]:
    """Where the positions [start, stop) lie, in order."""
    found = []
    index = int(order.stops_W.searchsorted(start, side="right"))
    while start < stop:
        ends = int(order.stops_W[index])
        begins = int(order.stops_W[index - 1]) if index else 0
        upto = min(stop, ends)
        found.append(Piece(window=int(order.windows_W[index]), start=start - begins, stop=upto - begins))
        start, index = upto, index + 1
    return found
