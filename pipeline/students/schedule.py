"""The learning rate as a pure function of the step: linear warm-up, then half a cosine down to 0. Loshchilov, Hutter 2017."""

import math


def learning_rate(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """The rate of step `step` (from 0) of `steps`. A warm-up longer than a quarter of the steps is cut to that."""
    warmup = max(1, min(warmup_steps, steps // 4))
    rise = min(1.0, (step + 1) / warmup)
    return peak * rise * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
