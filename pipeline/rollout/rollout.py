"""A rollout: one release on its way to one population, as a value folded from its event log.

`apply` is the whole meaning of an event; a rollout is never changed by anything else, so the log alone rebuilds it after a
crash. What happens next is decided in `pipeline.rollout.steering`. Always holds: a wave number never falls, a device that
failed never counts as confirmed again, and nothing follows a terminal state.

Times: `_s` is Unix time; `clock_s` is the rollout's own clock, which stands still while the rollout is paused or halted and
skips the time the server was away, so that a night without a server is no missed deadline.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.rollout.comparison import Comparison, Finding, Metric
from pipeline.rollout.events import GENESIS, Event, EventKind
from pipeline.rollout.plan import Plan, read_plan
from pipeline.rollout.sequential import OTHERS, POOLED, InstallTest


class RolloutState(enum.StrEnum):
    DRAFT = "draft"
    APPROVED = "approved"
    RUNNING = "running"
    COMPLETED = "completed"
    HALTED = "halted"
    ABORTED = "aborted"
    REVERTING = "reverting"
    REVERTED = "reverted"


TERMINAL = frozenset({RolloutState.COMPLETED, RolloutState.ABORTED, RolloutState.REVERTED})
LIVE = frozenset({RolloutState.APPROVED, RolloutState.RUNNING, RolloutState.REVERTING})
"""States in which time alone can change something."""


class WavePhase(enum.StrEnum):
    NONE = "none"
    OFFER = "offer"
    SOAK = "soak"
    GATE = "gate"


class Stage(enum.StrEnum):
    """Where a member stands in this rollout."""

    PENDING = "pending"
    OFFERED = "offered"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    LOST = "lost"
    """Silent after the switch; counts as failed."""
    INCOMPATIBLE = "incompatible"
    LEFT = "left"
    """Revoked, or gone from the population."""
    WITHDRAWN = "withdrawn"
    """Offered, not yet taken, and called back by a halt or an abort."""


BROKEN = frozenset({Stage.FAILED, Stage.LOST})
UNDECIDED = frozenset({Stage.PENDING, Stage.OFFERED})


@dataclass(frozen=True, kw_only=True)
class Member:
    """A device that a wave has reached."""

    hardware: str
    wave: int
    previous: str
    """Target path it was assigned before; empty where it had none."""
    joined_clock_s: float
    offered_clock_s: float = 0.0
    stage: Stage = Stage.PENDING
    failure_code: str = ""
    acknowledged: bool = False
    """Its failure, or its refusal, was seen by the operator who resumed the rollout."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """The state of one rollout. Make one with `fold`."""

    plan: Plan
    state: RolloutState = RolloutState.DRAFT
    phase: WavePhase = WavePhase.NONE
    wave: int = 0
    paused: bool = False
    reason: str = ""
    members: Mapping[str, Member] = field(default_factory=dict)
    tests: Mapping[str, InstallTest] = field(default_factory=dict)
    """By hardware class, and the one of all classes; of the present wave only."""
    alpha_spent: float = 0.0
    """On install tests."""
    comparisons: tuple[Comparison, ...] = ()
    """Of the last gate that made some."""
    alpha_compared: float = 0.0
    """Spent on comparisons."""
    accepted: frozenset[Metric] = frozenset()
    """Metrics that halted it and that the operator who resumed it accepts as they are."""
    halted_because: str = ""
    sent_until_clock_s: float = 0.0
    """When the bundles offered so far have gone through the bandwidth that the plan allows."""
    soak_clock_s: float = 0.0
    gate_clock_s: float = 0.0
    revert_clock_s: float = 0.0
    stopped_s: float = 0.0
    """How long the clock stood still so far."""
    frozen_at_s: float | None = None
    sequence: int = 0
    head: str = GENESIS
    last_event_s: float = 0.0
    created_s: float = 0.0

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    def clock_s(self, now: float) -> float:
        """The rollout's own time at Unix time `now`."""
        return (now if self.frozen_at_s is None else self.frozen_at_s) - self.stopped_s

    def count(self, *stages: Stage, wave: int | None = None) -> int:
        """Members in one of `stages`; of one wave, or of all."""
        return sum(1 for member in self.members.values() if member.stage in stages and wave in (None, member.wave))

    def halted_test(self) -> tuple[str, InstallTest] | None:
        """The test that says that the release is to blame, if one does: of one hardware class rather than of several."""
        halted = {name: test for name, test in self.tests.items() if test.halts}
        name = min(halted, key=lambda name: (name == POOLED, name == OTHERS, name), default=None)
        return None if name is None else (name, halted[name])


def fold(events: Iterable[Event]) -> Rollout:
    """The rollout that these events describe. The first one is CREATED; check the chain before trusting a stored log."""
    rollout: Rollout | None = None
    for event in events:
        rollout = _create(event) if rollout is None else apply(rollout, event)
    if rollout is None:
        raise ValueError("a rollout's log begins with its creation; this one is empty")
    return rollout


def apply(rollout: Rollout, event: Event) -> Rollout:
    """The rollout after one more event."""
    changed = _APPLY[event.kind](rollout, event.facts, event.at_s)
    return replace(changed, sequence=event.sequence, head=event.hash, last_event_s=event.at_s)


def _create(event: Event) -> Rollout:
    if event.kind is not EventKind.CREATED:
        raise ValueError(f"a rollout's log begins with `created`, this one with `{event.kind}`")
    try:
        plan = read_plan(event.facts)
    except ValueError as error:
        raise ValueError(f"a rollout's log begins with `created` of a version this kdpipe knows, this one says {error}") from error
    return Rollout(plan=plan, sequence=event.sequence, head=event.hash, last_event_s=event.at_s, created_s=event.at_s)


def _approved(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(rollout, state=RolloutState.APPROVED, reason=facts["reason"])


def _wave_started(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    joined = _join(replace(rollout, wave=facts["wave"], tests={}), facts, at_s)
    return replace(joined, state=RolloutState.RUNNING, phase=WavePhase.OFFER, reason=facts["reason"])


def _join(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    clock_s = rollout.clock_s(at_s)
    joined = {
        device: Member(hardware=hardware, wave=rollout.wave, previous=previous, joined_clock_s=clock_s)
        for device, hardware, previous in facts["devices"]
    }
    return _open_tests(replace(rollout, members={**rollout.members, **joined}), facts["alphas"])


def _open_tests(rollout: Rollout, alphas: Mapping[str, float]) -> Rollout:
    opened = {hardware: InstallTest(alpha=alpha) for hardware, alpha in alphas.items()}
    return replace(rollout, tests={**rollout.tests, **opened}, alpha_spent=rollout.alpha_spent + sum(alphas.values()))


def _offered(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    clock_s = rollout.clock_s(at_s)
    offered = {device: replace(rollout.members[device], stage=Stage.OFFERED, offered_clock_s=clock_s) for device in facts["devices"]}
    sent_until_clock_s = rollout.sent_until_clock_s
    if rollout.plan.bytes_per_s:
        sent_until_clock_s = max(sent_until_clock_s, clock_s) + len(offered) * rollout.plan.bundle_bytes / rollout.plan.bytes_per_s
    return replace(rollout, members={**rollout.members, **offered}, sent_until_clock_s=sent_until_clock_s)


def _outcomes(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    members, tests = dict(rollout.members), dict(rollout.tests)
    for device, stage_name, code in facts["outcomes"]:
        member, stage = members[device], Stage(stage_name)
        is_late = member.wave != rollout.wave  # a device of a wave that passed: its failure counts against the present one
        members[device] = replace(member, stage=stage, failure_code=code, wave=rollout.wave)
        if stage is Stage.INCOMPATIBLE:
            continue
        overturned = member.stage is Stage.CONFIRMED and not is_late
        for name in tests.keys() & {member.hardware if member.hardware in tests else OTHERS, POOLED}:
            tests[name] = tests[name].overturn() if overturned else tests[name].count(failed=stage in BROKEN)
    return replace(rollout, members=members, tests=tests)


def _left(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    left = {device: replace(rollout.members[device], stage=Stage.LEFT) for device in facts["devices"]}
    return replace(rollout, members={**rollout.members, **left})


def _soak_started(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(rollout, phase=WavePhase.SOAK, soak_clock_s=rollout.clock_s(at_s), reason=facts["reason"])


def _gate_reached(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(rollout, phase=WavePhase.GATE, gate_clock_s=rollout.clock_s(at_s), reason=facts["reason"])


def _wave_passed(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(_compared(rollout, facts), phase=WavePhase.NONE, reason=facts["reason"])


def _compared(rollout: Rollout, facts: Mapping[str, Any]) -> Rollout:
    found = tuple(
        Comparison(**{**values, "metric": Metric(values["metric"]), "finding": Finding(values["finding"])})
        for values in facts.get("comparisons", ())
    )
    if not found:
        return rollout
    spent = sum(comparison.alpha for comparison in found if comparison.finding in (Finding.WORSE, Finding.NO_WORSE))
    return replace(rollout, comparisons=found, alpha_compared=rollout.alpha_compared + spent)


def _paused(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(rollout, paused=True, frozen_at_s=at_s, reason=facts["reason"])


def _resumed(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    frozen_at_s = at_s if rollout.frozen_at_s is None else rollout.frozen_at_s
    thawed = replace(rollout, stopped_s=rollout.stopped_s + at_s - frozen_at_s, frozen_at_s=None, paused=False)
    members = dict(rollout.members)
    for device, member in rollout.members.items():
        if member.stage in BROKEN | {Stage.INCOMPATIBLE}:
            members[device] = replace(member, acknowledged=True)
        elif member.stage is Stage.WITHDRAWN:
            members[device] = replace(member, stage=Stage.PENDING, joined_clock_s=thawed.clock_s(at_s))
    accepted = rollout.accepted | {Metric(name) for name in facts.get("accepts", ())}
    tests = rollout.tests if facts.get("keeps_tests") else {}
    back = replace(thawed, members=members, tests=tests, accepted=accepted, halted_because="", reason=facts["reason"])
    return _open_tests(replace(back, state=RolloutState.RUNNING, phase=WavePhase.OFFER), facts["alphas"])


def _server_absent(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return rollout if rollout.frozen_at_s is not None else replace(rollout, stopped_s=rollout.stopped_s + facts["seconds"])


def _halted(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    frozen_at_s = at_s if rollout.frozen_at_s is None else rollout.frozen_at_s
    halted = replace(_compared(rollout, facts), state=RolloutState.HALTED, frozen_at_s=frozen_at_s, paused=False)
    return _withdraw(replace(halted, reason=facts["reason"], halted_because=facts["reason"]))


def _withdraw(rollout: Rollout) -> Rollout:
    called_back = {
        device: replace(member, stage=Stage.WITHDRAWN) for device, member in rollout.members.items() if member.stage in UNDECIDED
    }
    return replace(rollout, members={**rollout.members, **called_back})


def _completed(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(rollout, state=RolloutState.COMPLETED, phase=WavePhase.NONE, reason=facts["reason"])


def _aborted(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(_withdraw(rollout), state=RolloutState.ABORTED, phase=WavePhase.NONE, paused=False, reason=facts["reason"])


def _revert_started(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    frozen_at_s = at_s if rollout.frozen_at_s is None else rollout.frozen_at_s
    thawed = replace(rollout, stopped_s=rollout.stopped_s + at_s - frozen_at_s, frozen_at_s=None, paused=False)
    back = _withdraw(thawed)
    return replace(back, state=RolloutState.REVERTING, phase=WavePhase.NONE, revert_clock_s=back.clock_s(at_s), reason=facts["reason"])


def _reverted(rollout: Rollout, facts: Mapping[str, Any], at_s: float) -> Rollout:
    return replace(rollout, state=RolloutState.REVERTED, reason=facts["reason"])


_APPLY = {
    EventKind.APPROVED: _approved,
    EventKind.WAVE_STARTED: _wave_started,
    EventKind.JOINED: _join,
    EventKind.OFFERED: _offered,
    EventKind.OUTCOMES: _outcomes,
    EventKind.LEFT: _left,
    EventKind.SOAK_STARTED: _soak_started,
    EventKind.GATE_REACHED: _gate_reached,
    EventKind.WAVE_PASSED: _wave_passed,
    EventKind.PAUSED: _paused,
    EventKind.RESUMED: _resumed,
    EventKind.SERVER_ABSENT: _server_absent,
    EventKind.HALTED: _halted,
    EventKind.COMPLETED: _completed,
    EventKind.ABORTED: _aborted,
    EventKind.REVERT_STARTED: _revert_started,
    EventKind.REVERTED: _reverted,
}
