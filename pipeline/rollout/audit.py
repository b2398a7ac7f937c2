"""Is a rollout's log what was written? Its chain, its meaning, and the head that somebody remembers.

A hash chain shows every entry that was altered, removed or moved, and cannot show that its newest entries are gone: what is left is
a good chain. So an auditor keeps the head it saw last, and the log must still lead there. Refolding the log must give the state that
the orchestrator acts on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import FleetError
from pipeline.rollout.events import Event, RolloutLogBrokenError, check_chain
from pipeline.rollout.rollout import Rollout, fold


@dataclass(frozen=True, kw_only=True)
class Head:
    """The newest entry of a log, as somebody remembers it."""

    sequence: int
    hash: str


class RolloutLogTruncatedError(FleetError):
    """A log's newest entries are gone, or it was written anew from some entry on."""

    def __init__(self, rollout_id: str, found: int, sequence: int, hash_: str) -> None:
        super().__init__(rollout_id, found, sequence, hash_)
        self.rollout_id, self.found, self.sequence, self.hash = rollout_id, found, sequence, hash_

    def __str__(self) -> str:
        found = f"its log ends at event {self.found}" if self.found < self.sequence else f"event {self.sequence} is another one"
        return (
            f"rollout {self.rollout_id}: {found}; expected event {self.sequence} with hash {self.hash[:12]}, which was there at the last "
            "audit; restore the orchestrator's database from a backup"
        )


class RolloutStateForeignError(FleetError):
    """The state that the orchestrator shows is not what the log says."""

    def __init__(self, rollout_id: str, found: str, expected: str) -> None:
        super().__init__(rollout_id, found, expected)
        self.rollout_id, self.found, self.expected = rollout_id, found, expected

    def __str__(self) -> str:
        return (
            f"rollout {self.rollout_id}: the orchestrator shows it as {self.found}; expected {self.expected}, which its log says; "
            "restart the orchestrator, it reads the log anew"
        )


def audit(rollout_id: str, events: Sequence[Event], *, known: Head | None = None) -> Rollout:
    """Check the chain, lead it to the head that is known, and fold it.

    Raises RolloutLogBrokenError at the first entry that does not follow, RolloutLogTruncatedError.
    """
    check_chain(rollout_id, events)
    if known is not None and (len(events) < known.sequence or events[known.sequence - 1].hash != known.hash):
        raise RolloutLogTruncatedError(rollout_id, len(events), known.sequence, known.hash)
    try:
        rollout = fold(events)
    except (KeyError, TypeError, ValueError) as error:
        raise RolloutLogBrokenError(rollout_id, 1, f"{error}"[:200], "a log that folds") from error
    if rollout.plan.rollout_id != rollout_id:
        raise RolloutLogBrokenError(rollout_id, 1, rollout.plan.rollout_id, rollout_id)
    return rollout


def head_of(rollout: Rollout) -> Head:
    return Head(sequence=rollout.sequence, hash=rollout.head)
