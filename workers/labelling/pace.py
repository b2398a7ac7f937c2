"""Whether one replica is much slower than the others: a pure decision with a memory.

Seconds of asking a row, the median of its last units, against the median of the others': a slow disk or a pause for the students counts
for nobody. A replica is slow after it was so for a while, one at a time, and each replacement makes the next one wait longer, so that a
cluster of unlike machines comes to rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median


@dataclass(frozen=True, kw_only=True)
class PaceRule:
    slow_by: float = 3.0
    """Times as long as the others' median."""
    well_by: float = 2.0
    """Below this a replica that was slow is not any more."""
    units: int = 5
    """Units of a replica that say something; the latest so many count."""
    replicas: int = 3
    """Of fewer nobody can tell which is the odd one."""
    slow_for_s: float = 30.0
    rest_s: float = 300.0
    """After the first replacement; doubled by each."""


@dataclass(frozen=True, kw_only=True)
class PaceMemory:
    slow_since_s: Mapping[str, float] = field(default_factory=dict)
    replaced: int = 0
    not_before_s: float = float("-inf")


def judge_pace(
    seconds_per_row: Mapping[str, Sequence[float]], memory: PaceMemory, rule: PaceRule, *, now_s: float
) -> tuple[str | None, PaceMemory]:
    """The replica to replace now, if any, from the latest units of each replica at work; and what to remember."""
    typical = {name: median(units[-rule.units :]) for name, units in seconds_per_row.items() if len(units) >= rule.units}
    if len(typical) < rule.replicas:
        return None, replace(memory, slow_since_s={})
    since_s = {}
    for name, own_s in typical.items():
        others_s = median(other_s for other, other_s in typical.items() if other != name)
        if own_s > others_s * (rule.well_by if name in memory.slow_since_s else rule.slow_by):
            since_s[name] = memory.slow_since_s.get(name, now_s)
    ripe = [name for name, at_s in since_s.items() if now_s - at_s >= rule.slow_for_s]
    if not ripe or now_s < memory.not_before_s:
        return None, replace(memory, slow_since_s=since_s)
    slowest = max(ripe, key=lambda name: typical[name])
    rest_s = rule.rest_s * 2**memory.replaced
    del since_s[slowest]
    return slowest, PaceMemory(slow_since_s=since_s, replaced=memory.replaced + 1, not_before_s=now_s + rest_s)
