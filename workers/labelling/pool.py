"""How many teachers there should be now: a pure decision with a memory.

More, while units wait and trainers keep up; sooner if one starves. Fewer, while labelling pauses because its lead is used up. Each step
is one teacher, after the reason has held for a while, so that a pool on the border does not flap.
"""

from dataclasses import dataclass

from pipeline.config import UNITS_PER_TEACHER


@dataclass(frozen=True, kw_only=True)
class PoolRule:
    minimum: int
    maximum: int
    grow_after_s: float = 2.0
    grow_starved_after_s: float = 0.5
    shrink_after_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class PoolView:
    """What is seen now."""

    now_s: float
    teachers: int
    """Started and not draining."""
    units_waiting: int
    units_leased: int
    starved: bool
    lead_used_up: bool


@dataclass(frozen=True, kw_only=True)
class Pressure:
    """Since when there has been a reason for more or fewer; None while there is none."""

    more_since_s: float | None = None
    fewer_since_s: float | None = None


def decide(view: PoolView, rule: PoolRule, pressure: Pressure) -> tuple[int, Pressure]:
    """The number of teachers to have, and the pressure to remember."""
    useful = min(rule.maximum, -(-(view.units_waiting + view.units_leased) // UNITS_PER_TEACHER))
    floor = min(rule.minimum, useful)
    if view.teachers < floor:
        return floor, Pressure()
    if view.teachers > rule.maximum or useful == 0:
        return min(useful, rule.maximum), Pressure()
    more = view.teachers < useful and view.units_waiting > 0 and not view.lead_used_up
    fewer = view.lead_used_up and view.teachers > rule.minimum
    pressure = Pressure(
        more_since_s=(view.now_s if pressure.more_since_s is None else pressure.more_since_s) if more else None,
        fewer_since_s=(view.now_s if pressure.fewer_since_s is None else pressure.fewer_since_s) if fewer else None,
    )
    patience_s = rule.grow_starved_after_s if view.starved else rule.grow_after_s
    if pressure.more_since_s is not None and view.now_s - pressure.more_since_s >= patience_s:
        return view.teachers + 1, Pressure()
    if pressure.fewer_since_s is not None and view.now_s - pressure.fewer_since_s >= rule.shrink_after_s:
        return view.teachers - 1, Pressure()
    return view.teachers, pressure
