"""When the committed shards that no window holds yet become a window: a pure rule.

A window is the unit of shuffling, so it should be large; a student that waits should wait briefly, so the first windows of a generation
are 1, 2, 4 ... shards, and a window is closed early for a starved student and before labelling pauses because its lead is used up.
"""

from dataclasses import dataclass

STARVED_AFTER_S = 0.3


@dataclass(frozen=True, kw_only=True)
class OpenWindow:
    """Commits since the last seal."""

    shards: int
    rows: int
    age_s: float
    """Seconds since the first of them."""


def is_due(window: OpenWindow, *, windows_before: int, window_rows: int, starved: bool, lead_used_up: bool, ending: bool) -> bool:
    """Whether to seal now. `windows_before` counts the generation's windows."""
    if not window.shards:
        return False
    grown = window.rows >= window_rows or window.shards >= 1 << min(windows_before, 62)
    return grown or ending or lead_used_up or (starved and window.age_s >= STARVED_AFTER_S)
