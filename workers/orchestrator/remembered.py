"""Which rollouts belong in memory: those that time can still move, the newest that ended, and those that say what devices run.

A newcomer gets what devices like it run, so the newest completed rollout for each kind of device (its plan's selector and hardware) stays,
however many came after it for others. The rest is read from the database when somebody asks for it.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select

from pipeline.rollout.plan import Plan, read_plan
from pipeline.rollout.rollout import Rollout, RolloutState
from workers.orchestrator import tables

_ROLLOUTS, _EVENTS = tables.rollouts.c, tables.rollout_events.c

TERMINAL_KEPT = 8
"""Ended rollouts of each population that stay whatever they were for."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A rollout that nothing moves any more."""

    rollout_id: str
    population: str
    completed: Plan | None
    """None where it did not complete."""


def remembered(newest_first: Iterable[Ended]) -> Iterator[Ended]:
    """Those that stay."""
    seen: Counter[str] = Counter()
    kinds: set[tuple[object, ...]] = set()
    for ended in newest_first:
        seen[ended.population] += 1
        kind = (ended.population, ended.completed.selector, ended.completed.hardware) if ended.completed else None
        if seen[ended.population] <= TERMINAL_KEPT or (kind is not None and kind not in kinds):
            yield ended
        kinds |= {kind} if kind is not None else set()


def forgotten(rollouts: Iterable[Rollout]) -> set[str]:
    """Ids of those in memory that need not be."""
    ended = sorted((rollout for rollout in rollouts if rollout.is_terminal), key=lambda rollout: rollout.last_event_s, reverse=True)
    known = [_ended(rollout.plan, is_completed=rollout.state is RolloutState.COMPLETED) for rollout in ended]
    return {found.rollout_id for found in known} - {found.rollout_id for found in remembered(known)}


def worth_reading(connection: Connection) -> Iterator[tuple[str, str]]:
    """Those in the database that belong in memory, each with its population."""
    rows = connection.execute(
        select(_ROLLOUTS.rollout_id, _ROLLOUTS.population, _ROLLOUTS.ended_s).order_by(_ROLLOUTS.ended_s.desc())
    ).all()
    yield from ((row.rollout_id, row.population) for row in rows if row.ended_s is None)
    plans = dict(_completed_plans(connection))
    ended = (
        Ended(rollout_id=row.rollout_id, population=row.population, completed=plans.get(row.rollout_id))
        for row in rows
        if row.ended_s is not None
    )
    yield from ((found.rollout_id, found.population) for found in remembered(ended))


def _completed_plans(connection: Connection) -> Iterator[tuple[str, Plan]]:
    """Of those whose log begins as it should."""
    begun = (_EVENTS.rollout_id == _ROLLOUTS.rollout_id) & (_EVENTS.sequence == 1)
    completed = _ROLLOUTS.state == str(RolloutState.COMPLETED)
    for rollout_id, facts in connection.execute(select(_EVENTS.rollout_id, _EVENTS.facts).where(begun & completed)):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            yield rollout_id, read_plan(json.loads(facts))


def _ended(plan: Plan, *, is_completed: bool) -> Ended:
    return Ended(rollout_id=plan.rollout_id, population=plan.population, completed=plan if is_completed else None)
