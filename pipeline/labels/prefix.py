"""An immutable sequence that is cheap to extend.

Extending copies nothing: the longer sequence shares its items with the shorter one, which never sees past its own end. Like a
slice of an append-only list. Only the first extension of a sequence shares; a second one, a fork, copies.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

Item = TypeVar("Item")


class Prefix(Sequence[Item], Generic[Item]):
    """The first `len(self)` items of a shared append-only list."""

    __slots__ = ("_length", "_shared")

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._shared = list(items)
        self._length = len(self._shared)

    def extended(self, items: Iterable[Item]) -> "Prefix[Item]":
        """This sequence followed by `items`."""
        made: Prefix[Item] = Prefix()
        made._shared = self._shared if len(self._shared) == self._length else self._shared[: self._length]
        made._shared.extend(items)
        made._length = len(made._shared)
        return made

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._shared[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._shared[index % self._length]

    def __iter__(self) -> Iterator[Item]:
        for index in range(self._length):
            yield self._shared[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prefix) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Prefix({list(self)!r})"
