"""Whether what fails is a bad sample or a bad teacher: failures are held back until something succeeds.

A bad sample fails among others that don't. So rows that would be quarantined wait for the next success, or for the end of the work;
if too much fails in succession, the run stops and none of it is quarantined.
"""

from pipeline.labels.entries import Quarantine
from workers.labelling.faults import SourceFailsError, TeacherFailsError

UNITS_IN_SUCCESSION = 3
SHARE_OF_ROWS = 0.05


class Doubt:
    """Failures since the last success."""

    def __init__(self, *, rows_planned: int) -> None:
        self._rows_max = rows_planned * SHARE_OF_ROWS
        self._held: list[Quarantine] = []
        self._units = 0

    def failed(self, rows: list[Quarantine], *, source: bool) -> None:
        """Hold back the rows of one unit. Raises TeacherFailsError or SourceFailsError if it is one too many."""
        self._held += rows
        self._units += 1
        count = sum(held.stop - held.start for held in self._held)
        if self._units >= UNITS_IN_SUCCESSION and count > self._rows_max:
            raise (SourceFailsError if source else TeacherFailsError)(self._units, count, self._held[-1].reason)

    def settled(self) -> list[Quarantine]:
        """Something succeeded, or all is done: the rows to quarantine, once."""
        held, self._held, self._units = self._held, [], 0
        return held
