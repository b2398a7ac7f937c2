"""Sets of rows, kept as sorted half-open runs.

Rows are global row numbers. A set is immutable; its runs are disjoint and never touch, so equal sets have equal runs.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

Run = tuple[int, int]
"""Rows from the first number up to, but without, the second."""


class Intervals:
    """An immutable set of row numbers. Looking up is logarithmic in the number of runs; union and difference are linear."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        ordered = np.array(sorted(run for run in runs if run[0] < run[1]), dtype=np.int64).reshape(-1, 2)
        self._starts, self._stops = _merged(ordered[:, 0], ordered[:, 1])

    def __iter__(self) -> Iterator[Run]:
        return zip(self._starts.tolist(), self._stops.tolist(), strict=True)

    def __bool__(self) -> bool:
        return bool(self._starts.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Intervals({list(self)!r})"

    @property
    def runs(self) -> int:
        """How many runs the set is made of."""
        return int(self._starts.size)

    @property
    def rows(self) -> int:
        """How many rows are in the set."""
        return int((self._stops - self._starts).sum())

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any row of [start, stop) is in the set."""
        index = int(np.searchsorted(self._stops, start, side="right"))
        return start < stop and index < self._starts.size and int(self._starts[index]) < stop

    def mask(self, rows_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each row number, whether it is in the set."""
        if not self:
            return np.zeros(rows_N.shape, dtype=np.bool_)
        index = np.searchsorted(self._starts, rows_N, side="right") - 1
        return (index >= 0) & (rows_N < self._stops[np.maximum(index, 0)])

    def union(self, other: Self | Sequence[Run]) -> "Intervals":
        """The rows of either."""
        added = other if isinstance(other, Intervals) else Intervals(other)
        starts, stops = np.concatenate([self._starts, added._starts]), np.concatenate([self._stops, added._stops])
        order = np.argsort(starts, kind="stable")
        return _of(*_merged(starts[order], stops[order]))

    def minus(self, other: Self) -> "Intervals":
        """The rows that are not in the other."""
        edges = np.unique(np.concatenate([self._starts, self._stops, other._starts, other._stops]))
        starts, stops = edges[:-1], edges[1:]
        kept = self.mask(starts) & ~other.mask(starts)
        return _of(*_merged(starts[kept], stops[kept]))

    def within(self, start: int, stop: int) -> "Intervals":
        """The rows that are in [start, stop) too."""
        starts, stops = np.maximum(self._starts, start), np.minimum(self._stops, stop)
        return _of(starts[starts < stops], stops[starts < stops])

    def missing_from(self, start: int, stop: int) -> list[Run]:
        """The runs of [start, stop) that are not in the set, ascending."""
        index, at, missing = int(np.searchsorted(self._stops, start, side="right")), start, []
        while at < stop:
            if index == self._starts.size or int(self._starts[index]) >= stop:
                missing.append((at, stop))
                break
            if at < int(self._starts[index]):
                missing.append((at, int(self._starts[index])))
            at, index = int(self._stops[index]), index + 1
        return missing


def _of(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Intervals:
    made = Intervals()
    made._starts, made._stops = starts, stops
    return made


def _merged(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Join runs that touch or overlap; `starts` must ascend."""
    if starts.size == 0:
        return starts, stops
    reach = np.maximum.accumulate(stops)
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return starts[first], reach[last]
