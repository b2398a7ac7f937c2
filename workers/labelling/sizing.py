"""How many rows a unit should have: pure decisions.

A unit costs a call, a file and two fsyncs whatever its size. One that takes the teacher a few milliseconds spends its time on those;
one of minutes loses much when its process dies. So units begin small, for the students' sake, and neighbours are joined while they are
too short. A shard is made in memory as a whole, so wide rows mean short units: what turns out to be too large is divided before the
teacher is asked, and then so are those that come after it.
"""

import sys
from collections.abc import Sequence
from statistics import median

from pipeline.config import UNITS_PER_TEACHER, LabellingSection, TeacherSection

UNIT_S = 0.1
"""Of asking; from here on a unit is long enough."""
UNITS_SEEN = 8
"""Latest units that say how fast a row is."""
SHARD_MAX_BYTES = 64 * 2**20
"""In memory: samples and log-probabilities. A single row may be larger."""
UNITS_LEFT = 16
"""For each teacher, so that at the end none waits long for the last."""


def largest_unit(section: LabellingSection, teacher: TeacherSection) -> int:
    """Rows: no more than a window has, and no more than may be in flight within the lead."""
    in_lead = (section.lead_max - 2 * section.window_rows) // (UNITS_PER_TEACHER * teacher.workers_max)
    return max(section.unit_rows, min(section.unit_rows_max, section.window_rows, in_lead))


def unit_rows(now_rows: int, seconds_per_row: Sequence[float], *, rows_waiting: int, teachers: int, largest: int) -> int:
    """The present size, or a doubled, redoubled ... one that still takes UNIT_S at most. Never smaller than now."""
    if len(seconds_per_row) < UNITS_SEEN:
        return now_rows
    typical_s = max(median(seconds_per_row[-UNITS_SEEN:]), 1e-9)
    most = min(largest, UNIT_S / typical_s, rows_waiting / (UNITS_LEFT * max(teachers, 1)))
    rows = now_rows
    while 2 * rows <= most:
        rows *= 2
    return rows


def is_too_large(rows: int, unit_bytes: int) -> bool:
    """Whether a unit of so many rows must be divided."""
    return rows > 1 and unit_bytes > SHARD_MAX_BYTES


def rows_that_fit(bytes_per_row: Sequence[float]) -> int:
    """Rows as wide as those of the latest units that a shard may hold: at least one, and any number while nothing is known."""
    return max(1, int(SHARD_MAX_BYTES / max(median(bytes_per_row), 1.0))) if bytes_per_row else sys.maxsize
