"""Who labels what, now: leases as a state machine without clock, process or I/O.

    waiting --lease--> leased --settle--> gone (the committer logs it)
       ^                 |
       +--divide: in parts that are not too large
       +--fail, lose, expire: again, or in halves, or -- a single row -- given up with the reason

The ledger lives as long as its committer; the log is what survives. An attempt that was lost, or whose lease ran out, is fenced: its
result, should it still come, is refused here, so that no row is committed twice. A unit that failed before is leased to a worker with
nothing else to do, so that what fails again is known to be at fault.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from pipeline.labels.order import permutation

TRIES = 2
"""Failures of one unit before it is split, or given up if it is a single row."""


NEAR_UNITS = 256
"""Units that may wait while a worker is given one behind them."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Rows [start, stop) of one part."""

    start: int
    stop: int
    failures: int = 0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One attempt of one worker at one unit."""

    number: int
    unit: Unit
    worker: str
    expires_s: float


@dataclass(frozen=True, kw_only=True)
class GivenUp:
    """Rows that failed on their own; to be quarantined."""

    start: int
    stop: int
    reason: str


class Ledger:
    """Leases over a fixed set of units. All times are the caller's, in seconds, from any clock that only goes forward."""

    def __init__(
        self,
        units: Iterable[tuple[int, int]],
        *,
        seed: int,
        lease_s: float,
        group: Callable[[int], int] = lambda _start: 0,
        decoded: Callable[[int], str | None] = lambda _start: None,
    ) -> None:
        """Units are leased in a seeded permutation; those of a lower `group` (of a unit's first row) all before those of a higher.

        Where a unit needs a part `decoded` as a whole, a worker is given units of parts that it has had before, if some are near.
        """
        self._decoded, self._owners = decoded, dict[str, str]()
        self._seed, self._group = seed, group
        self._waiting = deque(self._permuted([Unit(start=start, stop=stop) for start, stop in units]))
        self._leases: dict[int, Lease] = {}
        self._next_number = 0
        self._lease_s = lease_s

    @property
    def units_waiting(self) -> int:
        return len(self._waiting)

    @property
    def rows_waiting(self) -> int:
        return sum(unit.stop - unit.start for unit in self._waiting)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Live leases, oldest first."""
        return tuple(self._leases.values())

    @property
    def empty(self) -> bool:
        """Nothing waits and nothing is leased."""
        return not self._waiting and not self._leases

    def _permuted(self, units: list[Unit]) -> list[Unit]:
        permuted = (units[place] for place in permutation(len(units), self._seed).tolist())
        return sorted(permuted, key=lambda unit: self._group(unit.start))

    def lease(self, worker: str, *, now_s: float) -> Lease | None:
        """The next unit for the worker, or None: nothing waits, or what is next must be tried alone and the worker is not free."""
        held = [lease for lease in self._leases.values() if lease.worker == worker]
        if not self._waiting or any(lease.unit.failures for lease in held) or (self._waiting[0].failures and held):
            return None
        place = self._nearest(worker)
        unit = self._waiting[place]
        del self._waiting[place]
        if (part := self._decoded(unit.start)) is not None:
            self._owners[part] = worker
        lease = Lease(number=self._next_number, unit=unit, worker=worker, expires_s=now_s + self._lease_s)
        self._next_number += 1
        self._leases[lease.number] = lease
        return lease

    def _nearest(self, worker: str) -> int:
        """Place of the first unit whose part nobody else at work has decoded; the first of all if that is far, or one failed before."""
        first = self._waiting[0]
        if first.failures or self._decoded(first.start) is None:
            return 0
        group, busy = self._group(first.start), {lease.worker for lease in self._leases.values()} - {worker}
        for place, unit in enumerate(islice(self._waiting, NEAR_UNITS)):
            part = self._decoded(unit.start)
            if unit.failures or self._group(unit.start) != group:
                break
            if part is None or self._owners.get(part) not in busy:
                return place
        return 0

    def merge(self, unit_rows: int, *, part: Callable[[int], object]) -> None:
        """Join neighbours that wait, up to so many rows and never over the end of a `part` (of a first row); what failed stays alone."""
        joined: list[Unit] = []
        alone = [unit for unit in self._waiting if unit.failures]
        for unit in sorted((unit for unit in self._waiting if not unit.failures), key=lambda unit: unit.start):
            last = joined[-1] if joined else None
            if last and last.stop == unit.start and unit.stop - last.start <= unit_rows and part(last.start) == part(unit.start):
                joined[-1] = replace(last, stop=unit.stop)
            else:
                joined.append(unit)
        self._waiting = deque([*self._permuted(joined), *alone])

    def settle(self, number: int) -> Lease | None:
        """The attempt succeeded. None if it was fenced: its result must not be committed."""
        return self._leases.pop(number, None)

    def put_back(self, number: int) -> None:
        """The attempt ended through no fault of the unit; it is next again."""
        lease = self._leases.pop(number, None)
        if lease:
            self._waiting.appendleft(lease.unit)

    def divide(self, number: int, rows: int) -> None:
        """The unit is too large, through no fault of it: parts of at most so many rows are next."""
        lease = self._leases.pop(number, None)
        if lease is None:
            return
        unit, length = lease.unit, lease.unit.stop - lease.unit.start
        parts = -(-length // max(rows, 1))
        bounds = [unit.start + length * edge // parts for edge in range(parts + 1)]
        self._waiting.extendleft(replace(unit, start=start, stop=stop) for start, stop in reversed(list(pairwise(bounds))))

    def fail(self, number: int, reason: str, *, divisible: bool = True) -> GivenUp | None:
        """The attempt failed. The unit is tried again, then in halves; a single row that fails again is given up.

        So is, as a whole, a unit whose failure says nothing about single rows (`divisible=False`).
        """
        lease = self._leases.pop(number, None)
        if lease is None:
            return None
        unit = replace(lease.unit, failures=lease.unit.failures + 1)
        if unit.failures < TRIES:
            self._waiting.append(unit)
        elif divisible and unit.stop - unit.start > 1:
            middle = (unit.start + unit.stop) // 2
            # Each half has one try left: it is known that one of them fails.
            halves = replace(unit, stop=middle, failures=TRIES - 1), replace(unit, start=middle, failures=TRIES - 1)
            self._waiting.extend(halves)
        else:
            return GivenUp(start=unit.start, stop=unit.stop, reason=reason)
        return None

    def lose(self, worker: str, reason: str) -> list[GivenUp]:
        """The worker died: all its attempts are fenced and count as failures."""
        lost = [lease.number for lease in self._leases.values() if lease.worker == worker]
        return [given_up for number in lost if (given_up := self.fail(number, reason))]

    def expired(self, *, now_s: float) -> list[Lease]:
        """Leases that ran out. They stay until the caller has ended the worker and called `lose`."""
        return [lease for lease in self._leases.values() if lease.expires_s <= now_s]
