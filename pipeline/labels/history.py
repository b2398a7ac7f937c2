"""An immutable sequence of facts that is cheap to extend and whose older part need not be in memory.

    |  older: in segments, read when asked for  |  tail: in memory  |

Extending copies nothing: the longer sequence shares its tail with the shorter one, which never sees past its own end. Like a slice of
an append-only list. Only the first extension of a sequence shares; a second one, a fork, copies. Two sequences of the same facts are
equal wherever the facts lie.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar, overload

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)

CHUNK = 4096
"""Facts read at once by whoever wants all of them."""


class Older(Protocol[Item_co]):
    """The first facts of a history, kept somewhere else."""

    def __len__(self) -> int: ...
    def items(self, start: int, stop: int) -> Sequence[Item_co]:
        """Facts [start, stop); both are within the length."""
        ...


class History(Sequence[Item], Generic[Item]):
    """The facts of `older`, then the first `length` of a shared append-only list."""

    __slots__ = ("_length", "_older", "_shared")

    def __init__(self, items: Iterable[Item] = (), *, older: Older[Item] | None = None) -> None:
        self._older: Older[Item] | Sequence[Item] = () if older is None else older
        self._shared = list(items)
        self._length = len(self._shared)

    def extended(self, items: Iterable[Item]) -> "History[Item]":
        """This history followed by `items`."""
        made: History[Item] = History()
        made._older = self._older
        made._shared = self._shared if len(self._shared) == self._length else self._shared[: self._length]
        made._shared.extend(items)
        made._length = len(made._shared)
        return made

    def rebased(self, older: Older[Item]) -> "History[Item]":
        """The same history, with more of it out of memory: `older` has its first facts, at least those that were older already."""
        return History(self.tail(len(older)), older=older)

    @property
    def in_memory(self) -> int:
        """How many facts the tail holds."""
        return self._length

    def tail(self, start: int) -> list[Item]:
        """The facts from number `start` on, which must be in memory."""
        return self._shared[start - len(self._older) : self._length]

    def __len__(self) -> int:
        return len(self._older) + self._length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._run(start, stop) if step == 1 else [self[place] for place in range(start, stop, step)]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        return self._run(place, place + 1)[0]

    def __iter__(self) -> Iterator[Item]:
        return self.since(0)

    def since(self, start: int) -> Iterator[Item]:
        """The facts from number `start` on, a chunk in memory at a time."""
        for first in range(start, len(self), CHUNK):
            yield from self._run(first, min(first + CHUNK, len(self)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, History) and len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        )

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"History({len(self._older)} older, then {self._shared[: self._length]!r})"

    def _run(self, start: int, stop: int) -> list[Item]:
        older = len(self._older)
        found: list[Item] = []
        if start < min(stop, older):
            filed = self._older
            found += filed[start : min(stop, older)] if isinstance(filed, Sequence) else filed.items(start, min(stop, older))
        return found + self._shared[max(start - older, 0) : max(stop - older, 0)] if stop > older else found
