"""Which windows may go: a pure rule. Labels are kept for ever unless a policy says how many bytes or how many days.

Asked when a generation begins, before its first label: no student of an older one is in training then. The windows of the last generation
that had any always stay, for what starts warm from it. What was dropped is not labelled again: its rows are done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.labels.entries import Drop, Floor
from pipeline.labels.state import LogState


@dataclass(frozen=True, kw_only=True)
class Retention:
    """A policy; None is no limit."""

    keep_bytes: int | None = None
    """Of shards, the newest first."""
    keep_s: float | None = None
    """Since a generation's last commit."""


def may_retire(state: LogState) -> bool:
    """Whether no generation has begun that has not ended."""
    return bool(state.ends) and state.rows_labelled == state.rows_at_end


def retired(state: LogState, policy: Retention, *, now_unix_s: float) -> Sequence[Floor | Drop]:
    """The entries that let go of what the policy does not keep; none if there is nothing to let go of."""
    if not may_retire(state):
        return ()
    by_age, by_bytes = _first_young(state, policy, now_unix_s), _first_within(state, policy)
    floor = min(max(by_age, by_bytes), _last_generations_first(state))
    if floor <= state.dropped_windows:
        return ()
    reason = "older than they are kept" if by_age >= by_bytes else "more bytes than are kept"
    return Floor(window=floor), Drop(stop_window=floor, stop_commit=state.windows[floor - 1].stop_commit, reason=reason)


def _last_generations_first(state: LogState) -> int:
    """First window of the last generation that had any: one whose new rows were all bad has none."""
    return max((windows for windows in state.ends.values() if windows < len(state.windows)), default=0)


def _first_young(state: LogState, policy: Retention, now_unix_s: float) -> int:
    """First window of the oldest generation that is young enough."""
    if policy.keep_s is None:
        return 0
    ended = [-1, *sorted(state.ends)]
    old = [
        generation
        for before, generation in pairwise(ended)
        if before not in state.commit_times or now_unix_s - state.commit_times[before][1] > policy.keep_s
    ]
    return max((state.ends[generation] for generation in old), default=0)


def _first_within(state: LogState, policy: Retention) -> int:
    """First of the newest windows that together are small enough."""
    if policy.keep_bytes is None:
        return 0
    sizes = [state.shard_of(commit).bytes for commit in state.kept_commits()]
    excess = sum(sizes) - policy.keep_bytes
    window, at = state.dropped_windows, state.dropped_commits
    while excess > 0 and window < len(state.windows):
        stop = state.windows[window].stop_commit
        excess -= sum(sizes[at - state.dropped_commits : stop - state.dropped_commits])
        window, at = window + 1, stop
    return window
