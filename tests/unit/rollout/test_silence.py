"""A device that confirmed a release and then says nothing more, or takes it back: both count within the soak of its wave."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rollout.evidence import Progress
from pipeline.rollout.rollout import RolloutState, Stage, WavePhase
from pipeline.rollout.silence import chance
from pipeline.rollout.steering import Action
from tests.kit.fleets import Fleet, approved, stages


def soaking(devices: int = 500, first: int = 100, **changes: object) -> tuple[Fleet, list[str]]:
    """A first wave that has confirmed and soaks; its devices."""
    fleet = approved(devices, **{"waves": (first, 1.0), "in_flight_first": first, "soak_s": 600.0, "deadline_s": 3600.0, **changes})
    wave = fleet.offered()
    for device in wave:
        fleet.report(device, Progress.CONFIRMED)
    fleet.tick()
    assert (fleet.rollout.phase, len(wave)) == (WavePhase.SOAK, first)
    return fleet, wave


def quiet(fleet: Fleet, *silent: str, seconds: float = 40.0) -> None:
    """Time passes, in which all but these call."""
    fleet.wait(seconds)
    fleet.call(*(set(fleet.facts) - set(silent)))
    fleet.tick()


def test_devices_that_confirm_and_fall_silent_in_their_soak_have_failed() -> None:
    fleet, wave = soaking()
    quiet(fleet, *wave[:8])
    assert [stages(fleet)[device] for device in wave[:9]] == [Stage.LOST] * 8 + [Stage.CONFIRMED]
    assert fleet.rollout.members[wave[0]].failure_code == "LOST_AFTER_CONFIRM"
    assert fleet.rollout.state is RolloutState.HALTED
    assert "of 100 installs on x86 failed, the release is to blame" in fleet.rollout.reason


def test_silence_that_devices_without_the_release_share_blames_nobody() -> None:
    fleet, wave = soaking()
    others = sorted(set(fleet.facts) - set(wave))
    quiet(fleet, *wave[:8], *others[:32])
    assert stages(fleet)[wave[0]] is Stage.CONFIRMED
    assert fleet.rollout.state is RolloutState.RUNNING


def test_devices_that_were_silent_before_the_wave_are_no_excuse_for_it() -> None:
    fleet = approved(500, waves=(100, 1.0), in_flight_first=100, soak_s=600.0, deadline_s=3600.0)
    wave = fleet.offered()
    others = sorted(set(fleet.facts) - set(wave))
    quiet(fleet, *others[:100])
    for device in wave:
        fleet.report(device, Progress.CONFIRMED)
    fleet.tick()
    quiet(fleet, *others[:100], *wave[:8])
    assert stages(fleet)[wave[0]] is Stage.LOST


def test_in_a_small_fleet_one_that_fell_silent_halts() -> None:
    fleet, wave = soaking(6, 2)
    quiet(fleet, wave[0])
    assert fleet.rollout.state is RolloutState.HALTED
    assert "1 of 2 devices failed" in fleet.rollout.reason
    assert "LOST_AFTER_CONFIRM" in fleet.rollout.reason


def test_in_a_small_fleet_silence_that_began_before_the_soak_says_nothing() -> None:
    fleet = approved(6, waves=(2, 1.0), soak_s=600.0, deadline_s=3600.0)
    first, second = fleet.offered()
    fleet.report(first, Progress.CONFIRMED)
    fleet.tick()
    quiet(fleet, first)
    fleet.report(second, Progress.CONFIRMED)
    fleet.tick()
    assert fleet.rollout.phase is WavePhase.SOAK
    quiet(fleet, first)
    assert fleet.rollout.count(Stage.LOST) == 0


@pytest.mark.parametrize(("quiet_before", "lost"), [(0, 12), (10, 0)])
def test_the_last_wave_is_held_against_the_waves_before(quiet_before: int, lost: int) -> None:
    fleet, wave = soaking(200, 100, in_flight_share=1.0)
    quiet(fleet, seconds=600.1)
    last = fleet.offered()
    for device in last:
        fleet.report(device, Progress.CONFIRMED)
    fleet.call()
    fleet.tick()
    assert (len(last), fleet.rollout.phase, fleet.rollout.wave) == (100, WavePhase.SOAK, 2)
    quiet(fleet, *last[:12], *wave[:quiet_before])
    assert fleet.rollout.count(Stage.LOST) == lost


def test_a_device_that_takes_its_confirmation_back_in_its_soak_has_failed() -> None:
    fleet, wave = soaking()
    for device in wave[:8]:
        fleet.report(device, Progress.FAILED, code="model_died")
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "model_died" in fleet.rollout.reason
    assert fleet.rollout.count(Stage.FAILED) == 8


def test_after_its_wave_a_device_may_come_and_go() -> None:
    fleet, wave = soaking(soak_s=2.0)
    quiet(fleet, seconds=2.1)
    assert fleet.rollout.wave == 2
    quiet(fleet, *wave)
    assert fleet.rollout.count(Stage.LOST) == 0


def test_nobody_watches_silence_while_it_is_paused() -> None:
    fleet, wave = soaking()
    fleet.act(Action.PAUSE)
    quiet(fleet, *wave)
    assert fleet.rollout.count(Stage.LOST) == 0


@given(silent=st.integers(0, 30), rest=st.integers(0, 60), quiet=st.integers(0, 30), present=st.integers(1, 60))
def test_the_chance_is_that_of_fishers_exact_test(silent: int, rest: int, quiet: int, present: int) -> None:
    wave, control = silent + rest, quiet + present
    total, lost = wave + control, silent + quiet
    ways = sum(math.comb(lost, k) * math.comb(total - lost, wave - k) for k in range(silent, min(wave, lost) + 1))
    assert chance(silent, wave, quiet, control) == pytest.approx(ways / math.comb(total, wave), rel=1e-6)


def test_the_chance_of_large_fleets_is_a_number() -> None:
    assert chance(4_000, 5_000, 0, 5_000) == pytest.approx(0.0)
    assert chance(50, 5_000, 50, 5_000) == pytest.approx(0.54, abs=0.02)
