"""How long a device waits between two calls: a decision by interval, failures and chance, for agents and for what stands in for them.

Always holds: no two devices keep step, and after failures none comes back, on average, sooner than it was told to call.
"""

import random

FIRST_SYNC_S = 2.0
"""The interval before a server has named one."""
MIN_PAUSE_S, MAX_BACKOFF_S = 0.05, 300.0
JITTER = 0.2
"""Of the interval that the server asked for. After a failure the jitter is full: anywhere from at once to twice the backoff."""


def pause_s(interval_s: float, *, failures: int, rng: random.Random) -> float:
    """Seconds until the next call, after so many failures in a row."""
    if not failures:
        return interval_s * (1 + JITTER * (2 * rng.random() - 1))
    backoff_s = max(interval_s, min(MAX_BACKOFF_S, 0.5 * 2.0 ** min(failures, 12)))
    return max(MIN_PAUSE_S, 2 * backoff_s * rng.random())
