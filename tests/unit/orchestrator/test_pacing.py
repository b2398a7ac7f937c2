"""How often devices call: the rate holds whoever is waited for, and a wave of few does not wait for an idle interval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rollout.steering import Action
from pipeline.rollout.waves import awaited
from tests.kit.fleets import approved, stages
from workers.orchestrator.pacing import STEADY_SHARE, Pacing
from workers.orchestrator.roster import DeviceRow, Roster

PACING = Pacing(busy_s=1e-9, idle_s=1e-9)


class Image(Roster):
    """A roster of devices of which a rollout waits for the first few."""

    def __init__(self, devices: int, waited_for: int) -> None:
        super().__init__()
        names = [f"d{number}" for number in range(devices)]
        self.devices = {name: DeviceRow(device_id=name, population="mail", hardware="x86") for name in names}
        self._first = frozenset(names[:waited_for])

    def waited_for(self) -> frozenset[str]:
        return self._first


def intervals(devices: int, waited_for: int) -> list[float]:
    image = Image(devices, waited_for)
    return [PACING.next_sync_s(image, row) for row in image.devices.values()]


@given(devices=st.integers(1, 300), share=st.floats(0, 1))
def test_all_devices_together_keep_the_rate_whomever_a_rollout_waits_for(devices: int, share: float) -> None:
    found = intervals(devices, round(share * devices))
    assert sum(1 / interval_s for interval_s in found) == pytest.approx(STEADY_SHARE * PACING.calls_per_s)
    assert max(found) <= 2 * PACING.least_interval_s(devices) * (1 + 1e-9)


def test_a_wave_of_a_hundredth_calls_fifty_times_as_often() -> None:
    found = intervals(1_000, 10)
    assert found[0] == pytest.approx(PACING.least_interval_s(1_000) / 50.5)


def test_a_rollout_waits_for_members_without_a_verdict_while_it_runs() -> None:
    fleet = approved(["a", "b", "c"], waves=(1.0,), in_flight_first=1)
    assert sorted(awaited(fleet.rollout)) == ["a", "b", "c"]
    fleet.act(Action.PAUSE)
    assert awaited(fleet.rollout) == []
    fleet.act(Action.RESUME)
    assert len(awaited(fleet.rollout)) == 3
    fleet.settle()
    assert awaited(fleet.rollout) == []
    assert len(stages(fleet)) == 3


def test_the_roster_follows_each_change_of_a_rollout() -> None:
    fleet, roster = approved(["a", "b"], waves=(1.0,)), Roster()
    assert roster.waited_for() == frozenset()
    roster.rollouts["r"] = fleet.rollout
    assert roster.waited_for() == {"a", "b"}
    fleet.settle()
    roster.rollouts["r"] = fleet.rollout
    assert roster.waited_for() == frozenset()
