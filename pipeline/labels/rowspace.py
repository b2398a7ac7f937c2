"""The row space: which row of which part a global row number means, and how it is cut into units.

Parts lie one after the other, in the order of their `Plan` entries. Within a part, global rows run through it column by column
of a matrix with `stride` columns, so that neighbours in the row space are `stride` rows apart in the file, and a source sorted by
class is spread over its units. The stride is recorded, so that a later run reads the space in the same way.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.entries import Plan
from pipeline.labels.intervals import Intervals, Run


def transposed(places_N: NDArray[np.int64], *, rows: int, stride: int) -> NDArray[np.int64]:
    """Row in the part for each place in its piece of the row space. A bijection of range(rows) for every stride >= 1."""
    short, long_columns = divmod(rows, stride)
    long_places = long_columns * (short + 1)
    in_long = places_N < long_places
    rest = places_N - long_places
    column = np.where(in_long, places_N // (short + 1), long_columns + rest // max(short, 1))
    depth = np.where(in_long, places_N % (short + 1), rest % max(short, 1))
    return np.asarray(column + depth * stride, dtype=np.int64)


def part_rows(plan: Plan, rows_N: NDArray[np.int64]) -> list[int]:
    """Rows of the plan's part that these global rows are."""
    rows: list[int] = (plan.offset + transposed(rows_N - plan.first, rows=plan.rows, stride=plan.stride)).tolist()
    return rows


def planned(
    parts: Iterable[tuple[str, str, int]],
    *,
    known: Sequence[Plan],
    unit_rows: int,
    offsets: Mapping[str, int] = MappingProxyType({}),
) -> list[Plan]:
    """Plans for those (identity, name, rows) that are not known yet, behind the known ones.

    A part without rows is planned too; of a part with an offset, the rows from there on.
    """
    first = known[-1].first + known[-1].rows if known else 0
    seen = {plan.part for plan in known}
    plans = []
    for identity, name, rows in parts:
        if identity in seen:
            continue
        seen.add(identity)
        offset = offsets.get(identity, 0)
        more = max(rows - offset, 0)
        plans.append(Plan(part=identity, name=name, first=first, rows=more, stride=max(1, -(-more // unit_rows)), offset=offset))
        first += more
    return plans


def plan_of(plans: Sequence[Plan], row: int) -> Plan:
    """The plan that global row `row` belongs to."""
    return plans[bisect_right(plans, row, key=lambda plan: plan.first) - 1]


def units_left(plans: Sequence[Plan], done: Intervals, *, unit_rows: int) -> Iterator[Run]:
    """Planned rows minus done rows, ascending, cut at the part's multiples of `unit_rows`: no unit reaches over a part."""
    for plan, missing in reversed(list(_unfinished(plans, done))):
        for start, stop in missing:
            while start < stop:
                cut = min(stop, start - (start - plan.first) % unit_rows + unit_rows)
                yield start, cut
                start = cut


def _unfinished(plans: Sequence[Plan], done: Intervals) -> Iterator[tuple[Plan, list[Run]]]:
    """Parts with rows that are not done, the newest first: of a long history the last few, so no more of it is read."""
    rows_left = plans[-1].first + plans[-1].rows - done.rows if plans else 0
    for plan in reversed(plans):
        if not rows_left:
            return
        missing = done.missing_from(plan.first, plan.first + plan.rows)
        rows_left -= sum(stop - start for start, stop in missing)
        yield plan, missing
