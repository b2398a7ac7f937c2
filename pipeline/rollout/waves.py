"""Who joins a wave, who is offered the release now, and who was not yet: pure decisions that return what the next event says.

Always holds: no more devices are in flight than the plan allows, and no offer asks the network for more than the plan allows. Whether
a wave goes on at all is decided in `pipeline.rollout.steering`.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pipeline.rollout.events import EventKind, Step
from pipeline.rollout.evidence import DeviceFacts, Evidence
from pipeline.rollout.plan import Plan
from pipeline.rollout.rollout import Rollout, RolloutState, Stage
from pipeline.rollout.sequential import CLASSES_MOST, OTHERS, POOLED, allot
from pipeline.rollout.targeting import bucket, eligible, misfit, ranked, wave_reach

BURST_S = 1.0
"""Offers are made about once a second, so a second's worth of bandwidth may be promised at once."""


def start_wave(rollout: Rollout, evidence: Evidence) -> Step | None:
    """The next wave, with the devices that it reaches beyond those before it."""
    plan, wave = rollout.plan, rollout.wave + 1
    fitting = ranked(plan.salt, eligible(evidence.devices, plan.selector, plan.hardware))
    if not fitting and wave == 1:
        return None  # nobody there yet: stays APPROVED until a device enrols
    reached = fitting[: wave_reach(plan.waves, wave, len(fitting))]
    new = [device for device in reached if device not in rollout.members]
    facts = _joining(rollout, evidence, new, first_wave=wave == 1, waves_left=len(plan.waves) - wave + 1, known=())
    says = f"wave {wave} of {len(plan.waves)}: {len(new)} of {len(fitting)} devices join"
    return EventKind.WAVE_STARTED, {**facts, "wave": wave, "reason": says}


def join(rollout: Rollout, evidence: Evidence) -> Step | None:
    """Devices that came after the wave began and stand within its reach."""
    plan = rollout.plan
    fitting = eligible(evidence.devices, plan.selector, plan.hardware)
    room = wave_reach(plan.waves, rollout.wave, len(fitting)) - len(rollout.members)
    if rollout.wave < len(plan.waves) and room <= 0:
        return None
    new = ranked(plan.salt, (device for device in fitting if device not in rollout.members))
    if rollout.wave < len(plan.waves):
        # A wave stays a share: it takes newcomers up to where it reaches, and no more of them than its size allows.
        reach = max((bucket(plan.salt, device) for device in rollout.members), default=0)
        new = [device for device in new if bucket(plan.salt, device) < reach][:room]
    if not new:
        return None
    left = len(plan.waves) - rollout.wave + 1
    return EventKind.JOINED, _joining(rollout, evidence, new, first_wave=False, waves_left=left, known=tuple(rollout.tests))


def offer(rollout: Rollout, evidence: Evidence, now: float) -> Step | None:
    """Offer the release to devices that wait for it and are there, as many as the caps allow."""
    room = min(in_flight_most(rollout.plan, rollout.wave, len(evidence.devices)) - rollout.count(Stage.OFFERED), _sendable(rollout, now))
    if room <= 0:
        return None
    waiting = (device for device, member in rollout.members.items() if member.stage is Stage.PENDING and evidence.is_present(device, now))
    offered = _first(room, waiting)
    return (EventKind.OFFERED, {"devices": offered}) if offered else None


def not_yet_offered(rollout: Rollout, evidence: Evidence) -> dict[str, DeviceFacts]:
    """Devices that the rollout is for and that do not have its release: what happens to these as well is none of its doing."""
    plan, members = rollout.plan, rollout.members
    return {
        device: facts
        for device, facts in evidence.devices.items()
        if (device not in members or members[device].stage is Stage.PENDING)
        and facts.running_digest != plan.digest
        and not misfit(facts, plan.selector, plan.hardware)
    }


def awaited(rollout: Rollout) -> list[str]:
    """Devices that the wave cannot go on without: offered the release, or in turn for it. The sooner they call, the sooner it passes."""
    if rollout.state is not RolloutState.RUNNING or rollout.paused:
        return []
    return [device for device, member in rollout.members.items() if member.stage in (Stage.PENDING, Stage.OFFERED)]


def in_flight_most(plan: Plan, wave: int, population: int) -> int:
    """How many devices may have the release on offer at once."""
    return plan.in_flight_first if wave <= 1 else max(plan.in_flight_first, math.ceil(plan.in_flight_share * population))


def alphas(rollout: Rollout, joining: Iterable[str], *, first_wave: bool, waves_left: int, known: Collection[str] = ()) -> dict[str, float]:
    """The error budget of the install tests that begin. `joining` has the class of each device, `known` the tests of the wave so far."""
    devices = Counter(joining)
    own = [] if known else sorted(sorted(devices, key=lambda name: -devices[name])[:CLASSES_MOST])
    others = [OTHERS] if OTHERS not in known and devices.keys() - {*own, *known} else []
    if not own and not others:
        return {}
    pools = POOLED not in known and len([*known, *own, *others]) > 1
    new = [*own, *others]
    each, pooled = allot(spent=rollout.alpha_spent, classes=len(new), pools=pools, first_wave=first_wave, waves_left=waves_left)
    return {**dict.fromkeys(new, each), **({POOLED: pooled} if pools else {})}


def _sendable(rollout: Rollout, now: float) -> int:
    """How many more bundles the bandwidth lets through by a burst from now; one where nothing is under way, however large it is."""
    plan, clock_s = rollout.plan, rollout.clock_s(now)
    if not plan.bytes_per_s or not plan.bundle_bytes:
        return len(rollout.members)
    idle = rollout.sent_until_clock_s <= clock_s
    room_s = clock_s + BURST_S - max(rollout.sent_until_clock_s, clock_s)
    return max(int(idle), math.floor(room_s * plan.bytes_per_s / plan.bundle_bytes))


def _joining(
    rollout: Rollout, evidence: Evidence, new: Sequence[str], *, first_wave: bool, waves_left: int, known: Collection[str]
) -> dict[str, Any]:
    devices = [[device, evidence.devices[device].hardware, _previous(rollout.plan, evidence.devices[device])] for device in new]
    joining = [hardware for _, hardware, _ in devices]
    return {"devices": devices, "alphas": alphas(rollout, joining, first_wave=first_wave, waves_left=waves_left, known=known)}


def _previous(plan: Plan, facts: DeviceFacts) -> str:
    return "" if facts.target in plan.no_way_back else facts.target


def _first(count: int, devices: Iterable[str]) -> list[str]:
    return [device for _, device in zip(range(count), devices, strict=False)]
