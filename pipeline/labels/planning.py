"""What a look at the source means for the log: which parts are new, which took another's place, which are back or missing. Pure.

A part whose content changed is another part of the same name, and what is there now is planned in its stead. Rows of the old one that
have no label can't be had any more: they are set aside. Those that have one keep it, and their positions, and weigh nothing in
generations from the one that is planned for on; rows that this very generation labelled count in it to its end, since its students may
have read them. If the old content comes back, so do its rows. A part that is gone without a successor is left for a person to judge.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.labels.entries import Entry, Plan, Quarantine, Reinstate, Retry, Supersede
from pipeline.labels.intervals import Intervals, Run
from pipeline.labels.quarantine import SUPERSEDED, in_force
from pipeline.labels.rowspace import planned
from pipeline.labels.state import LogState


@dataclass(frozen=True, kw_only=True)
class SourceChange:
    """Against what the log has."""

    new: tuple[Plan, ...]
    superseded: tuple[Quarantine, ...]
    """Rows without label of parts in whose place another part of the same name is there."""
    vanished: tuple[tuple[str, int], ...]
    """(name, rows without label) of parts that are gone."""
    retried: tuple[Retry, ...]
    """Rows that were set aside so, of parts that are there again as they were."""
    weighed: tuple[Supersede | Reinstate, ...]
    """Of parts that were replaced, and of those that are back."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What a plan writes."""
        return (*self.superseded, *self.retried, *self.weighed, *self.new)

    @property
    def rows_new(self) -> int:
        return sum(plan.rows for plan in self.new)

    @property
    def rows_superseded(self) -> int:
        return sum(rows.stop - rows.start for rows in self.superseded)

    @property
    def rows_back(self) -> int:
        return sum(rows.stop - rows.start for rows in self.retried)


def source_change(
    state: LogState,
    parts: Iterable[tuple[str, str, int]],
    *,
    unit_rows: int,
    generation: int,
    shown: Collection[str] | None = None,
    grown: Mapping[str, str] = MappingProxyType({}),
) -> SourceChange:
    """What is there, as (identity, name, rows), against what is planned, for a generation. With `shown`, no other part is new or back.

    `grown` names, for identities that are gone, the part that is there now and begins with all their rows: those stay as they are
    planned, and only what follows them is new.
    """
    there = list(parts)
    may_be_new = there if shown is None else [part for part in there if part[0] in shown]
    current = {plan.part for plan in state.plans} | {identity for identity, _, _ in may_be_new}
    identities = {identity for identity, _, _ in there} | set(grown)
    offsets: dict[str, int] = {}
    names = Counter(name for _, name, _ in there)
    replaced = {name for identity, name, _ in there if names[name] == 1 and identity in current}
    set_aside = Intervals((rows.start, rows.stop) for rows in in_force(state) if rows.reason == SUPERSEDED)
    weightless = state.superseded_rows()
    superseded, vanished, retried = list[Quarantine](), list[tuple[str, int]](), list[Retry]()
    leaving, back = list[Run](), list[Run]()
    for plan in state.plans:
        span = plan.first, plan.first + plan.rows
        if plan.part in grown:
            offsets[grown[plan.part]] = max(offsets.get(grown[plan.part], 0), plan.offset + plan.rows)
        if plan.part in identities:
            if shown is None or grown.get(plan.part, plan.part) in shown:
                retried += [Retry(start=start, stop=stop) for start, stop in set_aside.within(*span)]
                back += weightless.within(*span)
            continue
        missing = state.done.missing_from(*span)
        if missing and names[plan.name] == 1:  # more parts of that name: none of them is known to have taken its place
            superseded += [Quarantine(start=start, stop=stop, reason=SUPERSEDED) for start, stop in missing]
        elif missing:
            vanished.append((plan.name, sum(stop - start for start, stop in missing)))
        if plan.name in replaced:
            leaving += weightless.missing_from(*span)
    weighed = [Supersede(start=start, stop=stop, generation=first) for start, stop, first in _timed(state, leaving, generation)]
    again = [Reinstate(start=start, stop=stop, generation=first) for start, stop, first in _timed(state, back, generation)]
    return SourceChange(
        new=tuple(planned(may_be_new, known=state.plans, unit_rows=unit_rows, offsets=offsets)),
        superseded=tuple(superseded),
        vanished=tuple(vanished),
        retried=tuple(retried),
        weighed=(*weighed, *again),
    )


def _timed(state: LogState, runs: Collection[Run], generation: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, first generation to see it): what this generation labelled its own students may have read already."""
    if not runs:
        return
    own = Intervals((commit.start, commit.stop) for commit in state.commits_of(generation))
    for start, stop in runs:
        yield from ((*run, generation) for run in own.missing_from(start, stop))
        yield from ((*run, generation + 1) for run in own.within(start, stop))
