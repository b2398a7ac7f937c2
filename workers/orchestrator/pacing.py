"""How often devices should call: soon where a rollout waits for them, less often otherwise, and less often the more devices there are.

With n devices at a rate of R calls a second each has an interval of p = n / R. While a rollout waits for m of them (offered, or about to
be), those call every 2 p m / (n + m) and the others every 2 p, which is R in all: a wave of few hears of its release at once, and no
device is left alone for longer than twice its interval.
"""

from dataclasses import dataclass

from workers.orchestrator.roster import DeviceRow, Roster

STEADY_SHARE = 0.75
"""Of the calls that may come: what is left is for chance, for reports between two calls, and for those who missed theirs."""


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """The server decides the interval; devices add jitter."""

    busy_s: float = 0.5
    idle_s: float = 2.0
    calls_per_s: float = 500.0
    """Most calls that a whole population should make together."""

    def next_sync_s(self, roster: Roster, row: DeviceRow) -> float:
        """Until the device's next call."""
        devices, waited_for = len(roster.devices), roster.waited_for()
        if row.device_id in waited_for:
            return max(self.busy_s, self.waited_interval_s(devices, len(waited_for)))
        least_s = self.busy_s if roster.is_busy(row.population) else self.idle_s
        return max(least_s, (2 if waited_for else 1) * self.least_interval_s(devices))

    def least_interval_s(self, devices: int) -> float:
        """So that all of them together stay within `calls_per_s`."""
        return devices / (STEADY_SHARE * self.calls_per_s)

    def waited_interval_s(self, devices: int, waited_for: int) -> float:
        """Of those that a rollout waits for, while the others call half as often."""
        return self.least_interval_s(devices) * 2 * waited_for / (devices + waited_for)

    def busy_interval_s(self, roster: Roster) -> float:
        """While a rollout moves, on average."""
        return max(self.busy_s, self.least_interval_s(len(roster.devices)))

    def longest_interval_s(self, roster: Roster) -> float:
        """While a rollout moves, of whom nobody waits for."""
        return max(self.busy_s, 2 * self.least_interval_s(len(roster.devices)))

    def present_within_s(self, roster: Roster) -> float:
        """A device that called within this time is there: it may miss a call or two."""
        return max(30.0, 3 * self.idle_s, 3 * self.longest_interval_s(roster))

    def is_present(self, roster: Roster, last_seen_s: float, now: float) -> bool:
        return last_seen_s > 0 and now - last_seen_s <= self.present_within_s(roster)
