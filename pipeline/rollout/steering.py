"""What a rollout does next: pure decisions that return events. One executor, the orchestrator's wave engine, acts on them.

`advance` is called whenever something is new and when time passes; `command` is the operator's hand; `desired` says which
release each member should be assigned, so that the executor compares and signs what differs. Nothing here reads a clock.
"""

import enum
from dataclasses import asdict

from pipeline.errors import FleetError
from pipeline.rollout import gates, waves
from pipeline.rollout.comparison import Finding
from pipeline.rollout.events import GENESIS, Event, EventKind, Step, follow
from pipeline.rollout.evidence import DeviceFacts, Evidence, Progress
from pipeline.rollout.plan import OnHalt, Plan, plan_facts
from pipeline.rollout.rollout import BROKEN, LIVE, UNDECIDED, Rollout, RolloutState, Stage, WavePhase, apply, fold
from pipeline.rollout.sequential import ALPHA_LEAST
from pipeline.rollout.silence import fallen_silent


class Action(enum.StrEnum):
    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT_KEEP = "abort_keep"
    ABORT_REVERT = "abort_revert"


class RolloutActionError(FleetError):
    """An operator asked for something that the rollout's state does not allow."""

    def __init__(self, rollout_id: str, action: str, state: str) -> None:
        super().__init__(rollout_id, action, state)
        self.rollout_id, self.action, self.state = rollout_id, action, state

    def __str__(self) -> str:
        action = self.action.replace("_", " ")
        return (
            f"rollout {self.rollout_id}: cannot {action} while it is {self.state}; expected one whose state allows it; "
            "what ended stays ended, create a new rollout"
        )


class ErrorBudgetSpentError(FleetError):
    """A rollout was resumed after failures so often that its tests would no longer find a release that is to blame."""

    def __init__(self, rollout_id: str, alpha: float) -> None:
        super().__init__(rollout_id, alpha)
        self.rollout_id, self.alpha = rollout_id, alpha

    def __str__(self) -> str:
        return (
            f"rollout {self.rollout_id}: cannot resume: after so many resumes its install tests would begin with an error budget of "
            f"{self.alpha:.1g}; expected at least {ALPHA_LEAST:g}; `kdpipe rollout abort`, mend what fails, and create a new rollout"
        )


def create(plan: Plan, *, now: float) -> tuple[Rollout, Event]:
    """A new rollout in DRAFT, and the event that makes it."""
    event = follow(sequence=1, previous=GENESIS, at_s=now, kind=EventKind.CREATED, facts=plan_facts(plan))
    return fold([event]), event


def advance(rollout: Rollout, evidence: Evidence, *, now: float) -> tuple[Rollout, list[Event]]:
    """All that follows from `evidence` at Unix time `now`, as a pure function: same inputs, same answer; again at once, nothing."""
    events: list[Event] = []
    now = max(now, rollout.last_event_s)
    while (step := _next_step(rollout, evidence, now)) is not None:
        rollout = _record(rollout, step, now, events)
    return rollout, events


def command(rollout: Rollout, action: Action, *, now: float) -> tuple[Rollout, list[Event]]:
    """What an operator's action does; nothing where it is done already. Raises RolloutActionError where it cannot be meant,
    ErrorBudgetSpentError for one resume too many.
    """
    events: list[Event] = []
    now = max(now, rollout.last_event_s)
    step = _COMMANDS[action](rollout)
    return (rollout, events) if step is None else (_record(rollout, step, now, events), events)


def excuse_absence(rollout: Rollout, *, since_s: float, now: float) -> tuple[Rollout, list[Event]]:
    """After a restart: the time the server was away counts against no deadline and no soak."""
    events: list[Event] = []
    away_s = now - max(since_s, rollout.last_event_s)
    if rollout.state not in LIVE or rollout.frozen_at_s is not None or away_s <= 0:
        return rollout, events
    return _record(rollout, (EventKind.SERVER_ABSENT, {"seconds": away_s}), now, events), events


def supersede(rollout: Rollout, by: str, *, now: float) -> tuple[Rollout, list[Event]]:
    """End a halted rollout because another one takes its population over; its confirmed devices keep what they run."""
    events: list[Event] = []
    step = EventKind.ABORTED, {"reason": f"superseded by {by}: {rollout.reason}"}
    return _record(rollout, step, max(now, rollout.last_event_s), events), events


def desired(rollout: Rollout) -> dict[str, str]:
    """Member -> target path it should be assigned, empty for nothing; members the rollout has no opinion about are absent."""
    going_back = rollout.state in (RolloutState.REVERTING, RolloutState.REVERTED)
    targets: dict[str, str] = {}
    for device, member in rollout.members.items():
        if member.stage in (Stage.PENDING, Stage.LEFT):
            continue
        stays = member.stage in (Stage.OFFERED, Stage.CONFIRMED) and not (going_back and member.previous)
        targets[device] = rollout.plan.target if stays else member.previous
    return targets


def _record(rollout: Rollout, step: Step, now: float, events: list[Event]) -> Rollout:
    kind, facts = step
    event = follow(sequence=rollout.sequence + 1, previous=rollout.head, at_s=now, kind=kind, facts=facts)
    events.append(event)
    return apply(rollout, event)


def _next_step(rollout: Rollout, evidence: Evidence, now: float) -> Step | None:
    match rollout.state:
        case RolloutState.APPROVED if evidence.release_gone:
            return EventKind.ABORTED, {"reason": f"{evidence.release_gone}, before any device was offered it"}
        case RolloutState.APPROVED:
            return waves.start_wave(rollout, evidence)
        case RolloutState.RUNNING:
            step = _leave(rollout, evidence) or _hear(rollout, evidence, now) or _halt(rollout, evidence, now)
            return step if step is not None or rollout.paused else _go_on(rollout, evidence, now)
        case RolloutState.HALTED:
            return _hear(rollout, evidence, now) or _revert_by_policy(rollout)
        case RolloutState.REVERTING:
            return _end_revert(rollout, evidence, now)
        case _:
            return None


def _leave(rollout: Rollout, evidence: Evidence) -> Step | None:
    gone = [
        device
        for device, member in rollout.members.items()
        if member.stage in UNDECIDED and (device not in evidence.devices or evidence.devices[device].is_revoked)
    ]
    return (EventKind.LEFT, {"devices": sorted(gone)}) if gone else None


def _hear(rollout: Rollout, evidence: Evidence, now: float) -> Step | None:
    """New verdicts, in the order in which they were reported."""
    heard: list[tuple[float, str, Stage, str]] = []
    silent = fallen_silent(rollout, evidence, now=now)
    for device, member in rollout.members.items():
        facts = evidence.devices.get(device)
        if facts is None or member.stage not in (Stage.OFFERED, Stage.CONFIRMED) or facts.digest != rollout.plan.digest:
            continue
        if member.stage is Stage.CONFIRMED and facts.progress is not Progress.FAILED and device not in silent:
            continue  # nearly all of them, nearly always
        is_lost = evidence.is_lost(device, now, after_s=rollout.plan.lost_after_s)
        stage, code = _verdict(rollout, facts, is_silent=device in silent, is_lost=is_lost)
        if stage is not member.stage:
            heard.append((facts.progress_s, device, stage, code))
    if not heard:
        return None
    return EventKind.OUTCOMES, {"outcomes": [[device, str(stage), code] for _, device, stage, code in sorted(heard)]}


def _verdict(rollout: Rollout, facts: DeviceFacts, *, is_silent: bool, is_lost: bool) -> tuple[Stage, str]:
    match facts.progress:
        case Progress.CONFIRMED if is_silent:
            return Stage.LOST, "LOST_AFTER_CONFIRM"
        case Progress.CONFIRMED if facts.running_digest == rollout.plan.digest:
            return Stage.CONFIRMED, ""
        case Progress.FAILED:
            return Stage.FAILED, facts.failure_code
        case Progress.INCOMPATIBLE:
            return Stage.INCOMPATIBLE, facts.failure_code
        case Progress.SWITCHED if is_lost:
            return Stage.LOST, "LOST_AFTER_SWITCH"
        case _:
            return Stage.OFFERED, ""


def _halt(rollout: Rollout, evidence: Evidence, now: float) -> Step | None:
    if evidence.release_gone:
        return EventKind.HALTED, {"reason": f"wave {rollout.wave}: {evidence.release_gone}"}
    reason = gates.too_many_failures(rollout) or gates.small_wave_failed(rollout) or gates.too_many_incompatible(rollout)
    if reason is None and not rollout.paused:
        reason = gates.deadline_missed(rollout, evidence, now=now)
    return (EventKind.HALTED, {"reason": reason}) if reason is not None else None


def _go_on(rollout: Rollout, evidence: Evidence, now: float) -> Step | None:
    plan = rollout.plan
    match rollout.phase:
        case WavePhase.OFFER:
            step = waves.join(rollout, evidence) or waves.offer(rollout, evidence, now)
            if step is not None or rollout.count(*UNDECIDED):
                return step
            return EventKind.SOAK_STARTED, {"reason": f"{_which(rollout)}: every device has a verdict; soaking {plan.soak_s:g} s"}
        case WavePhase.SOAK:
            if rollout.clock_s(now) < rollout.soak_clock_s + plan.soak_s:
                return None
            return EventKind.GATE_REACHED, {"reason": f"{_which(rollout)}: soak over"}
        case WavePhase.GATE:
            return _judge(rollout, evidence, now)
        case WavePhase.NONE:
            return waves.start_wave(rollout, evidence) if rollout.wave < len(plan.waves) else _complete(rollout)


def _judge(rollout: Rollout, evidence: Evidence, now: float) -> Step | None:
    """The end of a wave: it passes, it halts the rollout, or it waits for data that others have."""
    comparisons = gates.compared(rollout, evidence, now=now)
    missing = gates.data_missing(rollout, comparisons)
    if missing is not None and rollout.clock_s(now) <= rollout.gate_clock_s + rollout.plan.deadline_s:
        return None  # nor is the rest judged yet: a test that is looked at again and again keeps no error budget
    facts = {"comparisons": [asdict(comparison) for comparison in comparisons]}
    stop = gates.answers_worse(rollout, comparisons) or missing
    if stop is not None:
        return EventKind.HALTED, {**facts, "reason": stop}
    return EventKind.WAVE_PASSED, {**facts, "reason": gates.passed(rollout, comparisons)}


def _revert_by_policy(rollout: Rollout) -> Step | None:
    if rollout.plan.on_halt is not OnHalt.REVERT:
        return None
    return EventKind.REVERT_STARTED, {"reason": f"devices go back by themselves, as the plan says; {rollout.halted_because}"}


def _which(rollout: Rollout) -> str:
    return f"wave {rollout.wave} of {len(rollout.plan.waves)}"


def _complete(rollout: Rollout) -> Step:
    confirmed = rollout.count(Stage.CONFIRMED)
    return EventKind.COMPLETED, {"reason": f"{confirmed} of {len(rollout.members)} devices run it and confirmed it"}


def _end_revert(rollout: Rollout, evidence: Evidence, now: float) -> Step | None:
    waiting = [device for device in rollout.members if not _is_back(rollout, evidence, device)]
    late = rollout.clock_s(now) > rollout.revert_clock_s + rollout.plan.deadline_s
    if waiting and not late:
        return None
    kept = sum(1 for member in rollout.members.values() if member.stage is Stage.CONFIRMED and not member.previous)
    says = f"{len(waiting)} devices have not come back within {rollout.plan.deadline_s:g} s" if waiting else "every device is back"
    before = sum(1 for m in rollout.members.values() if m.previous == rollout.plan.target and m.stage not in (Stage.LEFT, Stage.PENDING))
    says += f"; {before} ran this release before the rollout and run it still" if before else ""
    says += f"; {kept} had no release before and keep this one" if kept else ""
    says += f"; it was halted: {rollout.halted_because}" if rollout.halted_because else ""
    return EventKind.REVERTED, {"reason": says}


def _is_back(rollout: Rollout, evidence: Evidence, device: str) -> bool:
    member, facts = rollout.members[device], evidence.devices.get(device)
    if facts is None or facts.is_revoked or not member.previous or member.stage in (Stage.LEFT, Stage.PENDING):
        return True
    return facts.target == member.previous and facts.running_digest == facts.digest


def _approve(rollout: Rollout) -> Step | None:
    if rollout.state is RolloutState.ABORTED:
        raise RolloutActionError(rollout.plan.rollout_id, Action.APPROVE, rollout.state)
    return (EventKind.APPROVED, {"reason": "approved; waiting for devices"}) if rollout.state is RolloutState.DRAFT else None


def _pause(rollout: Rollout) -> Step | None:
    if rollout.state is not RolloutState.RUNNING:
        raise RolloutActionError(rollout.plan.rollout_id, Action.PAUSE, rollout.state)
    return None if rollout.paused else (EventKind.PAUSED, {"reason": f"paused by the operator in wave {rollout.wave}"})


def _resume(rollout: Rollout) -> Step | None:
    if rollout.state not in (RolloutState.RUNNING, RolloutState.HALTED):
        raise RolloutActionError(rollout.plan.rollout_id, Action.RESUME, rollout.state)
    if rollout.state is RolloutState.RUNNING and not rollout.paused:
        return None
    unseen = [member for member in rollout.members.values() if not member.acknowledged]
    broken, refused = (sum(1 for member in unseen if member.stage in stages) for stages in (BROKEN, {Stage.INCOMPATIBLE}))
    accepts = [str(found.metric) for found in rollout.comparisons if found.finding in (Finding.WORSE, Finding.MISSING)]
    says = f"resumed by the operator, who has seen {broken} failed devices" + (f", {refused} incompatible ones" if refused else "")
    says += f" and accepts {', '.join(accepts)}" if accepts else ""
    anew = rollout.state is RolloutState.HALTED and (broken > 0 or rollout.halted_test() is not None)
    alphas = _alphas_anew(rollout) if anew else {}
    return EventKind.RESUMED, {"alphas": alphas, "keeps_tests": not anew, "accepts": accepts, "reason": says}


def _alphas_anew(rollout: Rollout) -> dict[str, float]:
    """Of the wave's install tests, after failures that the operator has seen. Raises ErrorBudgetSpentError."""
    joining = [member.hardware for member in rollout.members.values() if member.wave == rollout.wave]
    left = len(rollout.plan.waves) - rollout.wave + 1
    alphas = waves.alphas(rollout, joining, first_wave=False, waves_left=left)
    if alphas and min(alphas.values()) < ALPHA_LEAST:
        raise ErrorBudgetSpentError(rollout.plan.rollout_id, min(alphas.values()))
    return alphas


def _abort_keep(rollout: Rollout) -> Step | None:
    if rollout.state in (RolloutState.COMPLETED, RolloutState.REVERTED):
        raise RolloutActionError(rollout.plan.rollout_id, Action.ABORT_KEEP, rollout.state)
    ended = rollout.state is RolloutState.ABORTED
    return None if ended else (EventKind.ABORTED, {"reason": "aborted by the operator; devices that confirmed it keep it"})


def _abort_revert(rollout: Rollout) -> Step | None:
    match rollout.state:
        case RolloutState.DRAFT | RolloutState.APPROVED:
            return EventKind.ABORTED, {"reason": "aborted by the operator before any device was offered it"}
        case RolloutState.RUNNING | RolloutState.HALTED:
            return EventKind.REVERT_STARTED, {"reason": "aborted by the operator; devices go back to what they ran before"}
        case RolloutState.REVERTING | RolloutState.REVERTED:
            return None
        case _:
            raise RolloutActionError(rollout.plan.rollout_id, Action.ABORT_REVERT, rollout.state)


_COMMANDS = {
    Action.APPROVE: _approve,
    Action.PAUSE: _pause,
    Action.RESUME: _resume,
    Action.ABORT_KEEP: _abort_keep,
    Action.ABORT_REVERT: _abort_revert,
}
