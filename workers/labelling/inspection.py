"""Which replicas may work, which must answer the canary, and which must go. No I/O, no clock; the session acts on it.

A replica is given no work before it has answered the canary as the others do; so it is each time its process comes back. What it says now
and then afterwards is held against the same answers.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.config import LabellingSection
from pipeline.labels.entries import Plan
from pipeline.labels.intervals import Intervals
from workers.labelling.canary import TRIES, Jury, hear
from workers.labelling.faults import TeachersDisagreeError
from workers.labelling.messages import Canary
from workers.labelling.pace import PaceMemory, PaceRule, judge_pace

ANSWER_MAX_VALUES = 2**16
"""Of a canary's answer, which goes to the driver whole."""


def canary_of(plans: Iterable[Plan], done: Intervals, *, rows: int, classes: int) -> Canary | None:
    """The first rows of the first planned part that has rows to label, so that it should be there; None if there is none."""
    most = max(1, min(rows, ANSWER_MAX_VALUES // classes))
    plan = next((plan for plan in plans if plan.rows and done.missing_from(plan.first, plan.first + plan.rows)), None)
    return None if plan is None or rows == 0 else Canary(plan=plan, start=plan.first, stop=plan.first + min(most, plan.rows))


@dataclass
class _Replica:
    asked_s: float | None = None
    """Since when it is asked about the canary; None while it is not."""
    answered_s: float | None = None
    """When it last agreed; None before that, and it gets no work."""
    seconds_per_row: deque[float] = field(default_factory=lambda: deque(maxlen=PaceRule.units))


class Inspection:
    """Of the replicas that are loaded. Those that die, stop or drain are forgotten by `forget`."""

    def __init__(self, section: LabellingSection, canary: Canary | None) -> None:
        self.canary = canary
        self._every_s, self._lease_s = section.canary_every_s, section.lease_s
        self._jury, self._rule = Jury(tolerance=section.canary_tolerance), PaceRule()
        self._pace = PaceMemory()
        self._replicas: dict[str, _Replica] = {}
        self._ended_by_canary = 0
        self.deviating, self.slow = 0, 0
        """Replicas taken out so far."""

    @property
    def taken_out(self) -> int:
        return self.deviating + self.slow

    @property
    def says(self) -> str:
        """What was done about bad replicas, in words; empty if nothing was."""
        counts = {"answered otherwise than the others": self.deviating, "much slower than the others": self.slow}
        return "replaced: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count) if self.taken_out else ""

    def ready(self, worker: str) -> None:
        """It has loaded its teacher."""
        self._replicas[worker] = _Replica()

    def may_work(self, worker: str) -> bool:
        """Nobody may while it is one replica's word against another's."""
        replica = self._replicas.get(worker)
        return replica is not None and (self.canary is None or (replica.answered_s is not None and not self._jury.undecided))

    def due(self, now_s: float) -> list[str]:
        """Replicas to ask about the canary now; they count as asked."""
        if not self.canary:
            return []
        names = [
            name
            for name, replica in self._replicas.items()
            if replica.asked_s is None and (replica.answered_s is None or now_s - replica.answered_s >= self._every_s)
        ]
        for name in names:
            self._replicas[name].asked_s = now_s
        return names

    def hung(self, now_s: float) -> list[str]:
        """Replicas that are silent about the canary for longer than a lease lasts."""
        asked = {name: replica.asked_s for name, replica in self._replicas.items() if replica.asked_s is not None}
        return [name for name, at_s in asked.items() if now_s - at_s >= self._lease_s]

    def heard(self, worker: str, log_probs_NK: NDArray[np.float32] | None, now_s: float) -> frozenset[str]:
        """Its answer to the canary, None if the samples could not be read: then it may work, and others see what is wrong with the source.

        Returns who must be taken out. Raises TeachersDisagreeError if no answer has a majority.
        """
        replica = self._replicas.get(worker)
        if replica is None:
            return frozenset()
        replica.asked_s, replica.answered_s = None, now_s
        if log_probs_NK is None:
            return frozenset()
        self._jury, far = hear(self._jury, worker, log_probs_NK)
        if self._jury.split:
            raise TeachersDisagreeError(len(self._jury.votes), len(far))
        out = far & self._replicas.keys()
        self.deviating += len(out)
        return out

    def labelled(self, worker: str, *, rows: int, seconds: float) -> None:
        """It was asked about a unit."""
        if rows and worker in self._replicas:
            self._replicas[worker].seconds_per_row.append(seconds / rows)

    def too_slow(self, now_s: float) -> str | None:
        """The replica to replace for its pace, if any."""
        units = {name: tuple(replica.seconds_per_row) for name, replica in self._replicas.items()}
        name, self._pace = judge_pace(units, self._pace, self._rule, now_s=now_s)
        self.slow += name is not None
        return name

    def forget(self, worker: str) -> None:
        """Its process is gone, or gets no more work. A canary that ends processes before anybody answered it is no canary: all may work."""
        replica = self._replicas.pop(worker, None)
        if replica and replica.asked_s is not None and not self._jury.votes:
            self._ended_by_canary += 1
            if self._ended_by_canary >= TRIES:
                self.canary = None
