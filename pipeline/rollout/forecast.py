"""A dry run: whom a plan would reach, in which wave, when at the earliest, and with how many bytes. Changes nothing.

Who is in a wave follows from the plan's salt and from the devices that are known now; devices that come later, or leave, move it.
Times are a floor, not a promise: every device is taken to be there, to call on time and to confirm at once.
"""

import math
from dataclasses import dataclass

from pipeline.rollout.evidence import Evidence
from pipeline.rollout.plan import Plan
from pipeline.rollout.targeting import eligible, left_out, ranked, wave_reach
from pipeline.rollout.waves import in_flight_most


@dataclass(frozen=True, kw_only=True)
class ForecastWave:
    """One wave of a dry run."""

    wave: int
    devices: tuple[str, ...]
    """In the order in which they would be offered the release."""
    bytes: int
    """If each of them fetches the whole bundle; deltas take less."""
    starts_s: float
    """After approval, at the earliest."""
    ends_s: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a plan would do."""

    waves: tuple[ForecastWave, ...]
    left_out: dict[str, int]
    """Reason -> how many devices of the population it is not for."""


def forecast(plan: Plan, evidence: Evidence, *, sync_s: float) -> Forecast:
    """What `plan` would do to these devices, which call every `sync_s` seconds."""
    fitting = ranked(plan.salt, eligible(evidence.devices, plan.selector, plan.hardware))
    waves, at, starts_s = [], 0, 0.0
    for wave in range(1, len(plan.waves) + 1):
        devices = tuple(fitting[at : wave_reach(plan.waves, wave, len(fitting))])
        turns = math.ceil(len(devices) / in_flight_most(plan, wave, len(evidence.devices)))
        size = len(devices) * plan.bundle_bytes
        sending_s = size / plan.bytes_per_s if plan.bytes_per_s else 0.0
        ends_s = starts_s + max(turns * sync_s, sending_s) + plan.soak_s
        waves.append(ForecastWave(wave=wave, devices=devices, bytes=size, starts_s=starts_s, ends_s=ends_s))
        at, starts_s = at + len(devices), ends_s
    return Forecast(waves=tuple(waves), left_out=left_out(evidence.devices, plan.selector, plan.hardware))
