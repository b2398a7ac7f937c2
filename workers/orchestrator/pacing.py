"""How often devices should call: short while a rollout moves, longer otherwise, and longer the more devices there are."""

from dataclasses import dataclass

from workers.orchestrator.roster import Roster

STEADY_SHARE = 0.75
"""Of the calls that may come: what is left is for chance, for reports between two calls, and for those who missed theirs."""


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """The server decides the interval; devices add jitter."""

    busy_s: float = 0.5
    idle_s: float = 2.0
    calls_per_s: float = 500.0
    """Most calls that a whole population should make together."""

    def next_sync_s(self, roster: Roster, population: str) -> float:
        return self.busy_interval_s(roster) if roster.is_busy(population) else max(self.idle_s, self.least_interval_s(len(roster.devices)))

    def least_interval_s(self, devices: int) -> float:
        """So that all of them together stay within `calls_per_s`."""
        return devices / (STEADY_SHARE * self.calls_per_s)

    def busy_interval_s(self, roster: Roster) -> float:
        """While a rollout moves."""
        return max(self.busy_s, self.least_interval_s(len(roster.devices)))

    def present_within_s(self, roster: Roster) -> float:
        """A device that called within this time is there: it may miss a call or two."""
        return max(30.0, 3 * self.idle_s, 3 * self.busy_interval_s(roster))

    def is_present(self, roster: Roster, last_seen_s: float, now: float) -> bool:
        return last_seen_s > 0 and now - last_seen_s <= self.present_within_s(roster)
