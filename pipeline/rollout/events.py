"""The append-only log of one rollout: what happened, in order, each entry chained to the one before by SHA-256.

An event's hash covers its content and its predecessor's hash, so an edited, dropped or reordered entry shows. This module
makes and checks entries; what they mean is `pipeline.rollout.rollout`'s, where they are kept is the orchestrator's.
"""

import enum
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import FleetError

GENESIS = "0" * 64


class EventKind(enum.StrEnum):
    CREATED = "created"
    APPROVED = "approved"
    WAVE_STARTED = "wave_started"
    JOINED = "joined"
    OFFERED = "offered"
    OUTCOMES = "outcomes"
    LEFT = "left"
    SOAK_STARTED = "soak_started"
    GATE_REACHED = "gate_reached"
    WAVE_PASSED = "wave_passed"
    PAUSED = "paused"
    RESUMED = "resumed"
    SERVER_ABSENT = "server_absent"
    HALTED = "halted"
    COMPLETED = "completed"
    ABORTED = "aborted"
    REVERT_STARTED = "revert_started"
    REVERTED = "reverted"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One fact. `facts` is plain JSON; `at_s` is Unix time and never goes back within a log."""

    sequence: int
    at_s: float
    kind: EventKind
    facts: Mapping[str, Any]
    hash: str


Step = tuple[EventKind, Mapping[str, Any]]
"""What an event will say, before it has its place in a log."""


class RolloutLogBrokenError(FleetError):
    """An event log does not hold together: somebody edited it, or a disk did."""

    def __init__(self, rollout_id: str, sequence: int, found: str, expected: str) -> None:
        super().__init__(rollout_id, sequence, found, expected)
        self.rollout_id, self.sequence, self.found, self.expected = rollout_id, sequence, found, expected

    def __str__(self) -> str:
        return (
            f"rollout {self.rollout_id}: event {self.sequence} has hash {_short(self.found)}; expected {_short(self.expected)}, "
            f"which its content and its predecessor give; restore the orchestrator's database from a backup"
        )


def follow(*, sequence: int, previous: str, at_s: float, kind: EventKind, facts: Mapping[str, Any]) -> Event:
    """The event after the one whose hash is `previous`."""
    digest = _digest(sequence, previous, at_s, kind, encode_facts(facts))
    return Event(sequence=sequence, at_s=at_s, kind=kind, facts=facts, hash=digest)


def check_chain(rollout_id: str, events: Iterable[Event]) -> None:
    """Raises RolloutLogBrokenError at the first event that does not follow from the one before."""
    previous = GENESIS
    for position, event in enumerate(events, start=1):
        expected = _digest(position, previous, event.at_s, event.kind, encode_facts(event.facts))
        if event.sequence != position or event.hash != expected:
            raise RolloutLogBrokenError(rollout_id, position, event.hash, expected)
        previous = event.hash


def stored_event(rollout_id: str, *, sequence: int, at_s: float, kind: str, facts: str, hash: str) -> Event:
    """An event as it was stored. Raises RolloutLogBrokenError for one that does not read; its hash is not checked here."""
    try:
        return Event(sequence=sequence, at_s=at_s, kind=EventKind(kind), facts=json.loads(facts), hash=hash)
    except ValueError as error:
        raise RolloutLogBrokenError(rollout_id, sequence, f"nothing ({str(error)[:100]})", hash) from error


def encode_facts(facts: Mapping[str, Any]) -> str:
    """Canonical JSON: what is hashed and what is stored."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _short(found: str) -> str:
    return found[:12] if len(found) == len(GENESIS) else found


def _digest(sequence: int, previous: str, at_s: float, kind: EventKind, encoded: str) -> str:
    return hashlib.sha256(f"{previous}\n{sequence}\n{at_s!r}\n{kind}\n{encoded}".encode()).hexdigest()
