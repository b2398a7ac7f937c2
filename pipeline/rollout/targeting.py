"""Which devices a rollout is for, and which of them a wave reaches.

A selector says what a device must be and have; what a device does not tell never meets a demand. A device's bucket is 64 bits
of SHA-256 over the rollout's salt and its id: nobody chooses to be a canary, and another rollout draws other canaries. Waves
are cumulative, in bucket order; each wave has at least one device while there are devices left.
"""

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from pipeline.rollout.evidence import DeviceFacts

Reach = int | float
"""How far a wave reaches: an int is a number of devices, a float a share."""


@dataclass(frozen=True, kw_only=True)
class Selector:
    """What a device must be for a rollout to be for it. Empty demands nothing."""

    labels: tuple[str, ...] = ()
    """`name=value`, all of them; an operator gives labels, a device cannot."""
    hardware: tuple[str, ...] = ()
    """One of them."""
    runtime_at_least: str = ""
    """Version of the device's inference runtime."""
    free_memory_bytes: int = 0

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Selector":
        return cls(**{**facts, "labels": tuple(facts["labels"]), "hardware": tuple(facts["hardware"])})


EVERY_DEVICE = Selector()


@functools.lru_cache(maxsize=1 << 17)
def bucket(salt: str, device: str) -> int:
    """Where a device stands in this rollout, 0 to 2^64 - 1."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{device}".encode()).digest()[:8], "big")


def ranked(salt: str, devices: Iterable[str]) -> list[str]:
    """The devices in the order in which a rollout reaches them."""
    return sorted(devices, key=lambda device: (bucket(salt, device), device))


def wave_reach(waves: Sequence[Reach], wave: int, population: int) -> int:
    """How many of `population` devices wave number `wave` (from 1) and those before it reach together."""
    if wave >= len(waves):
        return population
    reached = (reach if isinstance(reach, int) else math.floor(reach * population + 1e-9) for reach in waves[:wave])
    return min(population, max(wave, *reached) if wave > 0 else 0)


def is_allowed(hardware: str, allowed: Sequence[str]) -> bool:
    """Whether a release may run on this hardware class; a release that names no class runs on all."""
    return not allowed or hardware in allowed


def misfit(facts: DeviceFacts, selector: Selector, allowed: Sequence[str]) -> str:
    """Why a rollout is not for this device, in a few words; empty where it is."""
    if facts.is_revoked:
        return "revoked"
    if not is_allowed(facts.hardware, allowed):
        return f"the release does not run on {facts.hardware}"
    if not is_allowed(facts.hardware, selector.hardware):
        return f"hardware is not {' or '.join(selector.hardware)}"
    for label in selector.labels:
        if label not in facts.labels:
            return f"not labelled {label}"
    if selector.runtime_at_least and not _is_at_least(facts.runtime, selector.runtime_at_least):
        return f"runtime is not known to be {selector.runtime_at_least} or newer"
    if facts.free_memory_bytes < selector.free_memory_bytes:
        return f"less than {selector.free_memory_bytes:,} bytes of memory known to be free"
    return ""


def eligible(devices: Mapping[str, DeviceFacts], selector: Selector, allowed: Sequence[str]) -> list[str]:
    """The devices that a rollout is for."""
    if selector == EVERY_DEVICE and not allowed:
        return [device for device, facts in devices.items() if not facts.is_revoked]
    return [device for device, facts in devices.items() if not misfit(facts, selector, allowed)]


def left_out(devices: Mapping[str, DeviceFacts], selector: Selector, allowed: Sequence[str]) -> dict[str, int]:
    """Why how many devices are not among them."""
    reasons = Counter(misfit(facts, selector, allowed) for facts in devices.values())
    return {reason: count for reason, count in sorted(reasons.items()) if reason}


def _is_at_least(found: str, wanted: str) -> bool:
    try:
        return Version(found) >= Version(wanted)
    except InvalidVersion:
        return False
