"""Latency of several answerers, measured in turn: what slows the machine for a moment slows all of them alike.

A ratio of two latencies that were measured one after the other says as much about the machine as about the two.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def latencies_in_turn_ms(
    answerers: Mapping[str, Callable[[Any], object]],
    inputs: Sequence[Any],
    *,
    clock: Callable[[], float],
    calls: int = 100,
    warmup: int = 3,
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of `calls` answers to one input each, by answerer: all answer the first input, then the second, and so on.

    `warmup` rounds before that do not count. `clock` gives seconds. Where there are fewer `inputs` than `calls`, they are used again.
    """
    took_ms = {name: np.zeros(calls) for name in answerers}
    for call in range(-warmup, calls):
        sample = inputs[call % len(inputs)]
        for name, answer in answerers.items():
            began_s = clock()
            answer(sample)
            if call >= 0:
                took_ms[name][call] = (clock() - began_s) * 1e3
    return took_ms
