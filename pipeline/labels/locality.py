"""Which parts are labelled at the same time, so that those who read them need not read the same file again for each unit. Pure.

A unit is a stride through its part, and units are leased in a permutation: reading them in that order wants all of the source in memory.
Where it is larger than a reader holds, parts are labelled in groups that fit, drawn at random; units are permuted within a group.
"""

from collections.abc import Iterable, Mapping

from pipeline.labels.entries import Plan
from pipeline.labels.order import permutation


def reading_groups(plans: Iterable[Plan], held_bytes: Mapping[str, int], *, budget_bytes: int, seed: int) -> dict[str, int]:
    """Part -> number of its group, from 0; `held_bytes` says what a reader of a part keeps in memory, nothing for a part it lacks.

    A group holds at most `budget_bytes`, or one part that is larger.
    """
    parts = list(dict.fromkeys(plan.part for plan in plans))
    groups: dict[str, int] = {}
    group, filled_bytes = 0, 0
    for place in permutation(len(parts), seed).tolist():
        size_bytes = held_bytes.get(parts[place], 0)
        if filled_bytes and size_bytes and filled_bytes + size_bytes > budget_bytes:
            group, filled_bytes = group + 1, 0
        groups[parts[place]] = group
        filled_bytes += size_bytes
    return groups
