"""Axes: from values to places, and round numbers to write beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values between `low` and `high` to places between `start` and `stop`, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (self.stop - self.start) * (at - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        return log_ticks(self.low, self.high, most) if self.log else ticks(self.low, self.high, most)


def scale(values: Sequence[float], start: float, stop: float, *, log: bool = False, zero: bool = False) -> Scale:
    """One that holds all values, with some room. `zero`: it begins there."""
    low, high = min(values), max(values)
    if log:
        room = max(1.25, (high / low) ** 0.08)
        return Scale(low=low / room, high=high * room, start=start, stop=stop, log=True)
    if zero:
        low = min(low, 0.0)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return Scale(low=low if zero and low == 0 else low - room, high=high + room, start=start, stop=stop)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten, and at least one between `low` and `high`."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    for step in (power, 2 * power, 5 * power, 10 * power):
        first = math.ceil(low / step - 1e-9)
        found = [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]
        if len(found) <= most:
            return found
    return found


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round multiples of powers of ten, as many as are few enough; within a power, evenly spaced ones where no two would be left."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= most:
            break
    return found[:: -(-len(found) // most)] if len(found) > 1 else ticks(low, high, most)
