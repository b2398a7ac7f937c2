"""Which devices a wave is for.

A device's bucket is 64 bits of SHA-256 over the rollout's salt and its id: nobody chooses to be a canary, and another rollout
draws other canaries. Waves are cumulative shares of the population in bucket order; each wave has at least one device
while there are devices left.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence


def bucket(salt: str, device: str) -> int:
    """Where a device stands in this rollout, 0 to 2^64 - 1."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{device}".encode()).digest()[:8], "big")


def ranked(salt: str, devices: Iterable[str]) -> list[str]:
    """The devices in the order in which a rollout reaches them."""
    return sorted(devices, key=lambda device: (bucket(salt, device), device))


def wave_reach(shares: Sequence[float], wave: int, population: int) -> int:
    """How many of `population` devices wave number `wave` (from 1) and those before it reach together."""
    if wave >= len(shares):
        return population
    return min(population, max(wave, math.floor(shares[wave - 1] * population + 1e-9)))


def is_allowed(hardware: str, allowed: Sequence[str]) -> bool:
    """Whether a release may run on this hardware class; a release that names no class runs on all."""
    return not allowed or hardware in allowed
