"""A dry run says what will happen: the same devices in the same waves, and times that are a floor."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rollout.evidence import Evidence
from pipeline.rollout.forecast import Forecast, forecast
from pipeline.rollout.rollout import RolloutState
from pipeline.rollout.steering import Action
from pipeline.rollout.targeting import Selector
from tests.kit.fleets import Fleet, approved, plan


def foreseen(fleet: Fleet) -> Forecast:
    return forecast(fleet.rollout.plan, fleet.evidence, sync_s=1.0)


@settings(max_examples=25, deadline=None)
@given(devices=st.integers(0, 60), waves=st.sampled_from([(1.0,), (1, 1.0), (0.1, 0.5, 1.0), (3, 0.5, 1.0)]), salt=st.text(max_size=4))
def test_whom_it_names_is_whom_the_rollout_reaches_wave_by_wave(devices: int, waves: tuple[float, ...], salt: str) -> None:
    fleet = Fleet(devices, plan=plan(waves=waves, salt=salt))
    found = foreseen(fleet)
    assert sum(len(wave.devices) for wave in found.waves) == devices
    fleet.act(Action.APPROVE)
    rollout = fleet.settle()
    if not devices:
        return
    assert rollout.state is RolloutState.COMPLETED
    for wave in found.waves:
        assert set(wave.devices) == {device for device, member in rollout.members.items() if member.wave == wave.wave}


def test_times_never_promise_more_than_the_rollout_keeps() -> None:
    fleet = approved(300, waves=(20, 1.0), bundle_bytes=1_000, bytes_per_s=5_000.0)
    found, began_s = foreseen(fleet), fleet.now
    fleet.settle()
    assert fleet.rollout.state is RolloutState.COMPLETED
    assert fleet.now - began_s >= found.waves[-1].ends_s


def test_bytes_are_whole_bundles_and_bandwidth_stretches_a_wave() -> None:
    free = foreseen(Fleet(100, plan=plan(waves=(1.0,), bundle_bytes=1_000)))
    capped = foreseen(Fleet(100, plan=plan(waves=(1.0,), bundle_bytes=1_000, bytes_per_s=100.0)))
    assert free.waves[0].bytes == 100_000
    assert free.waves[0].ends_s == 10 * 1.0 + 2.0
    assert capped.waves[0].ends_s == 1_000.0 + 2.0


def test_it_says_why_devices_are_left_out() -> None:
    fleet = Fleet(
        5, plan=plan(selector=Selector(labels=("ring=beta",)), hardware=("x86",)), hardware=lambda n: "pi3" if n == "d-0" else "x86"
    )
    fleet.revoke("d-1")
    fleet.facts["d-2"] = replace(fleet.facts["d-2"], labels=frozenset({"ring=beta"}))
    found = foreseen(fleet)
    assert [wave.devices for wave in found.waves] == [("d-2",), ()]
    assert found.left_out == {"revoked": 1, "the release does not run on pi3": 1, "not labelled ring=beta": 2}


def test_nobody_there_is_empty_waves() -> None:
    found = forecast(plan(), Evidence(devices={}, listening_since_s=0.0), sync_s=1.0)
    assert [len(wave.devices) for wave in found.waves] == [0, 0]
