"""Devices that confirmed a release and then fell silent: did it take them down?

A release may break a device in a way that no report tells: it confirms, and an hour later the machine hangs. So silence counts within a
device's own wave, as it does after the switch. But devices also go offline by themselves, and all at once in an evening. So it is held
against devices that were not yet offered the release, in the last wave against those of earlier waves, over the same time: where theirs
is as frequent, it blames nobody. Where fewer than 30 are there to compare with, only silence that began while the wave soaked counts, and
each of it. After its wave a device may come and go as it likes.
"""

import math

from pipeline.rollout.comparison import SMALLEST_GROUP
from pipeline.rollout.evidence import Evidence
from pipeline.rollout.rollout import Rollout, RolloutState, Stage, WavePhase
from pipeline.rollout.waves import not_yet_offered

CHANCE = 0.01
"""Silence that chance explains less often than this is the release's."""


def fallen_silent(rollout: Rollout, evidence: Evidence, *, now: float) -> frozenset[str]:
    """Members of the present wave that confirmed the release and have been lost since."""
    is_watching = rollout.state is RolloutState.RUNNING and rollout.phase in (WavePhase.OFFER, WavePhase.SOAK) and not rollout.paused
    if not is_watching:
        return frozenset()
    after_s = rollout.plan.lost_after_s
    wave = [device for device, member in rollout.members.items() if member.wave == rollout.wave and member.stage is Stage.CONFIRMED]
    wave = [device for device in wave if device in evidence.devices and not evidence.devices[device].is_revoked]
    silent = frozenset(device for device in wave if evidence.is_lost(device, now, after_s=after_s))
    if not silent:
        return silent
    since_s = min(evidence.devices[device].progress_s for device in wave)
    others = _comparable(rollout, evidence, since_s=since_s)
    if len(others) < SMALLEST_GROUP:
        soaks_since_s = rollout.soak_clock_s + rollout.stopped_s if rollout.phase is WavePhase.SOAK else math.inf
        return frozenset(device for device in silent if evidence.devices[device].last_seen_s >= soaks_since_s)
    quiet = sum(1 for device in others if evidence.is_lost(device, now, after_s=after_s))
    return silent if chance(len(silent), len(wave), quiet, len(others)) <= CHANCE else frozenset()


def _comparable(rollout: Rollout, evidence: Evidence, *, since_s: float) -> list[str]:
    """Devices that were there since then, and that this wave's offers did not touch."""
    control = [device for device, facts in not_yet_offered(rollout, evidence).items() if facts.last_seen_s >= since_s]
    if len(control) >= SMALLEST_GROUP:
        return control
    earlier = {device for device, member in rollout.members.items() if member.wave < rollout.wave and member.stage is Stage.CONFIRMED}
    return [device for device in earlier & evidence.devices.keys() if evidence.devices[device].last_seen_s >= since_s]


def chance(silent: int, wave: int, quiet: int, control: int) -> float:
    """One-sided p of Fisher's exact test: so many or more of the wave are silent, where who is silent has nothing to do with the wave."""
    total, lost = wave + control, silent + quiet
    every = _log_ways(total, wave)
    logs = (_log_ways(lost, k) + _log_ways(total - lost, wave - k) - every for k in range(silent, min(wave, lost) + 1))
    return min(1.0, sum(map(math.exp, logs)))


def _log_ways(of: int, count: int) -> float:
    """Logarithm of the binomial coefficient, -inf where there is no way."""
    if not 0 <= count <= of:
        return -math.inf
    return math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
