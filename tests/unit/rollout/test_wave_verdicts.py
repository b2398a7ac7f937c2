"""Waves of many hardware classes, and releases that most devices refuse: neither hides that a release is bad."""

import pytest

from pipeline.rollout.evidence import Progress
from pipeline.rollout.plan import OnHalt
from pipeline.rollout.rollout import RolloutState, Stage
from pipeline.rollout.sequential import POOLED
from pipeline.rollout.steering import Action
from tests.kit.fleets import PREVIOUS, Fleet, approved, plan


def of_classes(classes: int, *, waves: tuple[float, ...] = (100, 1.0)) -> Fleet:
    fleet = Fleet(400, plan=plan(waves=waves), previous=PREVIOUS, hardware=lambda name: f"hw{int(name.removeprefix('d-')) % classes}")
    fleet.act(Action.APPROVE)
    return fleet


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 100])
def test_a_build_that_always_fails_reaches_no_more_devices_the_more_classes_they_claim_to_be(classes: int) -> None:
    fleet = of_classes(classes)
    fleet.settle(lambda _: Progress.FAILED, rounds=20)
    assert fleet.rollout.state is RolloutState.HALTED
    assert len(fleet.ever_assigned) <= 5 + fleet.rollout.plan.in_flight_first
    if classes > 5:
        assert "all hardware classes together" in fleet.rollout.reason


def test_one_class_that_fails_is_named_though_others_confirm() -> None:
    fleet = of_classes(4)
    fleet.settle(lambda name: Progress.FAILED if fleet.facts[name].hardware == "hw3" else Progress.CONFIRMED, rounds=60)
    assert fleet.rollout.state is RolloutState.HALTED
    assert "installs on hw3 failed" in fleet.rollout.reason


def test_a_wave_of_one_class_spends_nothing_on_a_second_test_of_the_same() -> None:
    fleet = of_classes(1)
    fleet.tick()
    assert set(fleet.rollout.tests) == {"hw0"}


def test_the_pooled_test_begins_anew_with_each_wave() -> None:
    fleet = of_classes(3, waves=(90, 1.0))
    while fleet.rollout.wave < 2:
        fleet.settle(rounds=1)
    assert fleet.rollout.tests[POOLED].confirmed < 90


def test_a_release_that_nearly_all_refuse_does_not_complete() -> None:
    fleet = approved(400, waves=(100, 1.0))
    fleet.settle(lambda name: Progress.CONFIRMED if name.endswith("7") else Progress.INCOMPATIBLE, rounds=60)
    assert fleet.rollout.state is RolloutState.HALTED
    assert "27 of 100 devices say the release is incompatible" in fleet.rollout.reason


def test_a_few_that_refuse_halt_nothing() -> None:
    fleet = approved(400, waves=(100, 1.0))
    fleet.settle(lambda name: Progress.INCOMPATIBLE if name.endswith("7") else Progress.CONFIRMED)
    assert fleet.rollout.state is RolloutState.COMPLETED


def test_who_resumes_has_seen_those_that_refused() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.INCOMPATIBLE, code="MEMORY")
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "1 of 1 devices say the release is incompatible, 0 confirmed it; expected at most 20%: MEMORY" in fleet.rollout.reason
    fleet.act(Action.RESUME)
    assert "1 incompatible ones" in fleet.rollout.reason
    assert fleet.settle().state is RolloutState.COMPLETED
    assert fleet.rollout.count(Stage.CONFIRMED) == 2


@pytest.mark.parametrize(("on_halt", "rests"), [(OnHalt.HOLD, RolloutState.HALTED), (OnHalt.REVERT, RolloutState.REVERTING)])
def test_a_release_that_is_gone_halts_its_rollout_also_a_paused_one(on_halt: OnHalt, rests: RolloutState) -> None:
    fleet = approved(20, waves=(1.0,), on_halt=on_halt)
    first, *_ = fleet.offered()
    fleet.report(first, Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.PAUSE)
    fleet.release_gone = "the release was yanked (answers in French)"
    fleet.tick()
    assert fleet.rollout.state is rests
    assert fleet.rollout.halted_because == "wave 1: the release was yanked (answers in French)"
    assert fleet.rollout.count(Stage.FAILED, Stage.LOST, Stage.OFFERED) == 0, "no device is to blame"
    assert (fleet.facts[first].target == PREVIOUS) == (on_halt is OnHalt.REVERT)
