"""What a look at the source means for the log: which parts are new, which took another's place, which are missing. Pure.

A part whose content changed is another part of the same name. The rows of the old one that have no label can't be had any more: they
are set aside, and what is there now is planned in their stead; labels that are committed stay. A part that is gone without a
successor is left for a person to judge.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.labels.entries import Plan, Quarantine
from pipeline.labels.intervals import Intervals
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

    @property
    def rows_new(self) -> int:
        return sum(plan.rows for plan in self.new)

    @property
    def rows_superseded(self) -> int:
        return sum(rows.stop - rows.start for rows in self.superseded)


def source_change(
    state: LogState,
    parts: Iterable[tuple[str, str, int]],
    *,
    unit_rows: int,
    shown: Collection[str] | None = None,
    grown: Mapping[str, str] = MappingProxyType({}),
) -> SourceChange:
    """What is there, as (identity, name, rows), against what is planned. With `shown`, no other part is new.

    `grown` names, for identities that are gone, the part that is there now and begins with all their rows: those stay as they are
    planned, and only what follows them is new.
    """
    there = list(parts)
    identities = {identity for identity, _, _ in there} | set(grown)
    offsets: dict[str, int] = {}
    names = Counter(name for _, name, _ in there)
    superseded: list[Quarantine] = []
    vanished: list[tuple[str, int]] = []
    for plan in state.plans:
        if plan.part in grown:
            offsets[grown[plan.part]] = max(offsets.get(grown[plan.part], 0), plan.offset + plan.rows)
        missing = state.done.missing_from(plan.first, plan.first + plan.rows) if plan.part not in identities else []
        if missing and names[plan.name] == 1:  # more parts of that name: none of them is known to have taken its place
            superseded += [Quarantine(start=start, stop=stop, reason=SUPERSEDED) for start, stop in missing]
        elif missing:
            vanished.append((plan.name, sum(stop - start for start, stop in missing)))
    may_be_new = there if shown is None else [part for part in there if part[0] in shown]
    return SourceChange(
        new=tuple(planned(may_be_new, known=state.plans, unit_rows=unit_rows, again=_back(state, identities), offsets=offsets)),
        superseded=tuple(superseded),
        vanished=tuple(vanished),
    )


def _back(state: LogState, identities: set[str]) -> set[str]:
    """Parts that were set aside before any row of theirs had a label, and are there again as they were."""
    set_aside = [rows for rows in in_force(state) if rows.reason == SUPERSEDED]
    if not set_aside:
        return set()
    latest = {plan.part: plan for plan in state.plans if plan.part in identities}
    back = {part: plan for part, plan in latest.items() if any(plan.first <= rows.start < plan.first + plan.rows for rows in set_aside)}
    if not back:
        return set()
    labelled = Intervals((commit.start, commit.stop) for commit in state.commits)
    return {part for part, plan in back.items() if not labelled.overlaps(plan.first, plan.first + plan.rows)}
