"""A rollout wave by wave: who gets the release when, what stops it, and what an operator can do."""

from dataclasses import replace

import pytest

from pipeline.rollout.events import EventKind, RolloutLogBrokenError, check_chain, follow
from pipeline.rollout.evidence import Progress
from pipeline.rollout.rollout import RolloutState, Stage, WavePhase, fold
from pipeline.rollout.steering import Action, RolloutActionError, excuse_absence, supersede
from tests.kit.fleets import Fleet, plan

PREVIOUS = "releases/small-000001.kdpb"


def approved(devices: int | list[str] = 3, **changes: object) -> Fleet:
    fleet = Fleet(devices, plan=plan(**changes), previous=PREVIOUS)
    fleet.act(Action.APPROVE)
    fleet.tick()
    return fleet


def stages(fleet: Fleet) -> dict[str, Stage]:
    return {device: member.stage for device, member in fleet.rollout.members.items()}


def test_nothing_is_offered_before_approval() -> None:
    fleet = Fleet(3, plan=plan())
    fleet.tick()
    assert fleet.rollout.state is RolloutState.DRAFT
    assert fleet.offered() == []


def test_one_canary_then_the_other_two() -> None:
    fleet = approved()
    (canary,) = fleet.offered()
    fleet.report(canary, Progress.CONFIRMED)
    fleet.tick()
    assert fleet.rollout.phase is WavePhase.SOAK
    assert fleet.offered() == []
    fleet.wait(2.0)
    fleet.tick()
    assert fleet.rollout.wave == 2
    assert len(fleet.offered()) == 2
    rollout = fleet.settle()
    assert rollout.state is RolloutState.COMPLETED
    assert rollout.reason == "3 of 3 devices run it and confirmed it"


def test_the_soak_is_waited_for() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.wait(1.9)
    assert fleet.tick() == []


def test_a_small_wave_that_passes_says_that_it_proves_little() -> None:
    fleet = approved()
    fleet.settle()
    said = [event.facts["reason"] for event in fleet.log if event.kind is EventKind.WAVE_PASSED]
    assert "too few for a verdict" in said[0]


def test_a_failed_canary_halts_the_rollout_and_names_the_code() -> None:
    fleet = approved()
    canary = fleet.offered()[0]
    fleet.report(canary, Progress.FAILED, code="GOLDEN_MISMATCH")
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "GOLDEN_MISMATCH" in fleet.rollout.reason
    assert fleet.facts[canary].target == PREVIOUS, "a failed device is assigned what it runs"


def test_confirmed_counts_only_where_the_device_runs_that_digest() -> None:
    fleet = approved()
    canary = fleet.offered()[0]
    fleet.facts[canary] = replace(fleet.facts[canary], progress=Progress.CONFIRMED, running_digest="c" * 64)
    fleet.tick()
    assert stages(fleet)[canary] is Stage.OFFERED


def test_a_device_that_falls_back_during_the_soak_halts_the_wave() -> None:
    fleet = approved()
    canary = fleet.offered()[0]
    fleet.report(canary, Progress.CONFIRMED)
    fleet.tick()
    fleet.report(canary, Progress.FAILED, code="CRASH_LOOP")
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED


def test_a_canary_that_falls_back_during_the_second_wave_halts_it() -> None:
    fleet = approved()
    canary = fleet.offered()[0]
    fleet.report(canary, Progress.CONFIRMED)
    fleet.tick()
    fleet.wait(2.0)
    fleet.tick()
    assert fleet.rollout.wave == 2
    fleet.report(canary, Progress.FAILED, code="CRASH_LOOP")
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED


def test_silence_after_the_switch_is_a_lost_device_and_a_lost_device_has_failed() -> None:
    fleet = approved()
    canary = fleet.offered()[0]
    fleet.report(canary, Progress.SWITCHED)
    fleet.wait(30.0)
    assert fleet.tick() == []
    fleet.wait(0.1)
    fleet.tick()
    assert stages(fleet)[canary] is Stage.LOST
    assert fleet.rollout.state is RolloutState.HALTED


def test_silence_while_the_server_was_down_says_nothing() -> None:
    fleet = approved()
    canary = fleet.offered()[0]
    fleet.report(canary, Progress.SWITCHED)
    since_s = fleet.now
    fleet.wait(3600.0)
    fleet.listening_since_s = fleet.now
    fleet._take(*excuse_absence(fleet.rollout, since_s=since_s, now=fleet.now))
    assert fleet.tick() == []
    fleet.report(canary, Progress.CONFIRMED)
    assert fleet.settle().state is RolloutState.COMPLETED


def test_no_data_is_held_then_halted_at_the_deadline() -> None:
    fleet = approved()
    fleet.wait(120.0)
    fleet.call()
    assert fleet.tick() == []
    fleet.wait(0.1)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "no verdict" in fleet.rollout.reason


def test_a_member_that_never_calls_is_no_data() -> None:
    fleet = Fleet(1, plan=plan())
    fleet.facts["d-0"] = replace(fleet.facts["d-0"], last_seen_s=0.0)
    fleet.act(Action.APPROVE)
    fleet.tick()
    assert fleet.offered() == [], "an offer to a device that is not there would hold a place in flight"
    fleet.wait(120.1)
    fleet.tick()
    assert "1 never called" in fleet.rollout.reason


def test_a_halt_calls_back_what_was_not_taken_yet() -> None:
    fleet = approved(9, waves=(0.5, 1.0))
    first, *others = fleet.offered()
    fleet.report(first, Progress.FAILED)
    fleet.tick()
    assert all(fleet.facts[device].target == PREVIOUS for device in others)
    assert all(stages(fleet)[device] is Stage.WITHDRAWN for device in others)


def test_a_build_that_always_fails_touches_few_devices_of_ten_thousand() -> None:
    fleet = Fleet(10_000, plan=plan(waves=(0.01, 0.1, 1.0)), previous=PREVIOUS)
    fleet.act(Action.APPROVE)
    rollout = fleet.settle(lambda _: Progress.FAILED, rounds=10)
    assert rollout.state is RolloutState.HALTED
    assert len(fleet.ever_assigned) <= 5 + 10


def test_five_failures_in_a_row_halt_a_large_first_wave_and_four_do_not() -> None:
    fleet = approved(1000, waves=(0.1, 1.0))
    for failures, state in ((4, RolloutState.RUNNING), (1, RolloutState.HALTED)):
        for device in fleet.offered()[:failures]:
            fleet.report(device, Progress.FAILED)
        fleet.tick()
        assert fleet.rollout.state is state


def test_each_hardware_class_is_tested_by_itself() -> None:
    fleet = Fleet(1000, plan=plan(waves=(0.5, 1.0), in_flight_first=500), hardware=lambda name: "pi3" if name.endswith("7") else "x86")
    fleet.act(Action.APPROVE)
    rollout = fleet.settle(lambda name: Progress.FAILED if name.endswith("7") else Progress.CONFIRMED, rounds=20)
    assert rollout.state is RolloutState.HALTED
    assert "pi3" in rollout.reason


def test_a_wave_in_flight_never_exceeds_its_cap() -> None:
    fleet = approved(200, waves=(0.5, 1.0))
    assert len(fleet.offered()) == 10
    for device in fleet.offered()[:3]:
        fleet.report(device, Progress.CONFIRMED)
    fleet.tick()
    assert len(fleet.offered()) == 10


def test_a_large_wave_survives_failures_at_the_good_rate() -> None:
    fleet = approved(1000, waves=(0.3, 1.0))
    assert fleet.settle(lambda name: Progress.FAILED if name.endswith("77") else Progress.CONFIRMED).state is RolloutState.COMPLETED


def test_devices_that_say_incompatible_teach_nothing() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.INCOMPATIBLE, code="MEMORY")
    fleet.tick()
    fleet.wait(2.0)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "incompatible" in fleet.rollout.reason


def test_hardware_the_release_does_not_allow_is_not_offered_it() -> None:
    fleet = Fleet(4, plan=plan(hardware=("x86",)), hardware=lambda name: "pi3" if name == "d-1" else "x86")
    fleet.act(Action.APPROVE)
    assert fleet.settle().state is RolloutState.COMPLETED
    assert "d-1" not in fleet.rollout.members


def test_a_rollout_without_devices_waits_for_the_first() -> None:
    fleet = Fleet(0, plan=plan())
    fleet.act(Action.APPROVE)
    assert fleet.tick() == []
    fleet.enrol("d-9")
    assert fleet.settle().state is RolloutState.COMPLETED


def test_a_device_that_enrols_during_the_last_wave_joins_it() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.wait(2.0)
    fleet.tick()
    fleet.enrol("d-late")
    fleet.tick()
    assert "d-late" in fleet.offered()
    assert fleet.settle().count(Stage.CONFIRMED) == 4


def test_a_device_that_enrols_between_waves_joins_the_next() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    assert fleet.rollout.phase is WavePhase.SOAK
    fleet.enrol("d-late")
    assert fleet.tick() == []
    assert fleet.settle().count(Stage.CONFIRMED) == 4


def test_devices_that_trickle_in_do_not_swell_the_canary_wave() -> None:
    fleet = Fleet(1, plan=plan())
    fleet.act(Action.APPROVE)
    fleet.tick()
    for name in ("d-1", "d-2", "d-3", "d-4"):
        fleet.enrol(name)
        fleet.tick()
    assert fleet.offered() == ["d-0"]
    assert fleet.settle().count(Stage.CONFIRMED) == 5


def test_a_late_hardware_class_has_a_test_of_its_own() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.wait(2.0)
    fleet.tick()
    fleet.enrol("d-late", hardware="riscv")
    fleet.tick()
    assert set(fleet.rollout.tests) == {"x86", "riscv"}
    assert fleet.rollout.alpha_spent <= 0.01


def test_a_revoked_device_leaves_and_holds_nobody_up() -> None:
    fleet = approved()
    (canary,) = fleet.offered()
    fleet.revoke(canary)
    fleet.tick()
    assert stages(fleet)[canary] is Stage.LEFT
    assert fleet.settle().count(Stage.CONFIRMED) == 2


def test_a_pause_offers_nothing_new_and_stops_the_clock() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.PAUSE)
    fleet.wait(1000.0)
    assert fleet.tick() == []
    fleet.act(Action.RESUME)
    fleet.tick()
    assert fleet.rollout.phase is WavePhase.SOAK
    assert fleet.settle().state is RolloutState.COMPLETED


def test_paused_time_counts_against_no_deadline_and_the_rest_of_it_still_does() -> None:
    fleet = approved()
    fleet.wait(100.0)
    fleet.act(Action.PAUSE)
    fleet.wait(1000.0)
    fleet.act(Action.RESUME)
    fleet.wait(19.0)
    fleet.call()
    fleet.tick()
    assert fleet.rollout.state is RolloutState.RUNNING
    fleet.wait(1.1)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED


def test_a_failure_with_an_earlier_release_is_not_held_against_this_one() -> None:
    fleet = Fleet(3, plan=plan(), previous=PREVIOUS)
    for device in list(fleet.facts):
        fleet.report(device, Progress.FAILED)
    fleet.act(Action.APPROVE)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.RUNNING
    assert fleet.settle().state is RolloutState.COMPLETED


def test_a_confirmed_device_that_installs_the_same_release_again_stays_confirmed() -> None:
    fleet = approved()
    canary = fleet.offered()[0]
    fleet.report(canary, Progress.CONFIRMED)
    fleet.tick()
    fleet.report(canary, Progress.WORKING)
    fleet.tick()
    assert stages(fleet)[canary] is Stage.CONFIRMED


def test_gates_run_while_paused() -> None:
    fleet = approved()
    fleet.act(Action.PAUSE)
    fleet.report(fleet.offered()[0], Progress.FAILED)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED


def test_resume_after_a_halt_acknowledges_the_failures_and_offers_again_what_was_called_back() -> None:
    fleet = approved(9, waves=(0.5, 1.0))
    bad, *_ = fleet.offered()
    fleet.report(bad, Progress.FAILED)
    fleet.tick()
    fleet.act(Action.RESUME)
    rollout = fleet.settle()
    assert rollout.state is RolloutState.COMPLETED
    assert rollout.members[bad].acknowledged
    assert rollout.count(Stage.CONFIRMED) == 8
    assert fleet.facts[bad].target == PREVIOUS


def test_a_new_failure_after_resume_halts_again() -> None:
    fleet = approved(9, waves=(0.5, 1.0))
    fleet.report(fleet.offered()[0], Progress.FAILED)
    fleet.tick()
    fleet.act(Action.RESUME)
    fleet.tick()
    fleet.report(fleet.offered()[0], Progress.FAILED)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED


def test_abort_keep_leaves_confirmed_devices_alone_and_calls_back_the_rest() -> None:
    fleet = approved(9, waves=(0.5, 1.0))
    first, second, *_ = fleet.offered()
    fleet.report(first, Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.ABORT_KEEP)
    assert fleet.rollout.state is RolloutState.ABORTED
    assert fleet.facts[first].target == fleet.rollout.plan.target
    assert fleet.facts[second].target == PREVIOUS


def test_abort_revert_brings_every_device_back_before_it_ends() -> None:
    fleet = approved(9, waves=(0.5, 1.0))
    first, *_ = fleet.offered()
    fleet.report(first, Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.ABORT_REVERT)
    assert fleet.facts[first].target == PREVIOUS
    assert fleet.tick() == []
    fleet.report(first, Progress.CONFIRMED)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.REVERTED
    assert fleet.rollout.reason == "every device is back"


def test_a_revert_ends_at_the_deadline_and_counts_who_did_not_come_back() -> None:
    fleet = approved(9, waves=(0.5, 1.0))
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.ABORT_REVERT)
    fleet.wait(120.1)
    fleet.tick()
    assert fleet.rollout.reason.startswith("1 devices have not come back")


def test_a_first_release_has_nothing_to_go_back_to_and_says_so() -> None:
    fleet = Fleet(3, plan=plan())
    fleet.act(Action.APPROVE)
    fleet.tick()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.ABORT_REVERT)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.REVERTED
    assert "1 had no release before and keep this one" in fleet.rollout.reason


def test_a_release_below_the_security_floor_is_no_way_back() -> None:
    fleet = approved(3, no_way_back=(PREVIOUS,))
    (canary,) = fleet.offered()
    fleet.report(canary, Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.ABORT_REVERT)
    assert fleet.facts[canary].target == fleet.rollout.plan.target


def test_late_failures_do_not_undo_a_completed_rollout() -> None:
    fleet = approved()
    fleet.settle()
    for device in list(fleet.facts):
        fleet.report(device, Progress.FAILED)
    fleet.wait(1000.0)
    assert fleet.tick() == []
    assert fleet.rollout.state is RolloutState.COMPLETED


def test_a_late_confirmation_does_not_revive_a_failed_device() -> None:
    fleet = approved(1000, waves=(0.1, 1.0))
    device, *_ = fleet.offered()
    fleet.report(device, Progress.FAILED)
    fleet.tick()
    fleet.report(device, Progress.CONFIRMED)
    fleet.tick()
    assert stages(fleet)[device] is Stage.FAILED


def test_actions_are_idempotent_so_that_a_lost_answer_can_be_asked_again() -> None:
    fleet = approved()
    assert fleet.act(Action.APPROVE) == []
    fleet.act(Action.PAUSE)
    assert fleet.act(Action.PAUSE) == []
    fleet.act(Action.RESUME)
    assert fleet.act(Action.RESUME) == []
    fleet.act(Action.ABORT_REVERT)
    assert fleet.act(Action.ABORT_REVERT) == []


@pytest.mark.parametrize("action", [Action.PAUSE, Action.RESUME, Action.ABORT_KEEP, Action.ABORT_REVERT])
def test_a_completed_rollout_refuses_to_be_moved(action: Action) -> None:
    fleet = approved()
    fleet.settle()
    with pytest.raises(RolloutActionError, match="completed"):
        fleet.act(action)


def test_a_halted_rollout_makes_way_for_another() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.FAILED)
    fleet.tick()
    fleet._take(*supersede(fleet.rollout, "r2", now=fleet.now))
    assert fleet.rollout.state is RolloutState.ABORTED
    assert "superseded by r2" in fleet.rollout.reason


@pytest.mark.parametrize("attack", ["edit", "rehash", "drop", "swap", "time"])
def test_a_tampered_log_is_refused(attack: str) -> None:
    fleet = approved()
    fleet.settle()
    log = list(fleet.log)
    if attack == "edit":
        log[3] = replace(log[3], facts={**log[3].facts, "devices": ["d-other"]})
    elif attack == "rehash":
        facts = {**log[3].facts, "devices": ["d-other"]}
        log[3] = follow(sequence=4, previous=log[2].hash, at_s=log[3].at_s, kind=log[3].kind, facts=facts)
    elif attack == "drop":
        del log[2]
    elif attack == "swap":
        log[2], log[3] = log[3], log[2]
    else:
        log[4] = replace(log[4], at_s=log[4].at_s + 1)
    with pytest.raises(RolloutLogBrokenError, match="restore"):
        check_chain("r1", log)


def test_a_log_that_does_not_begin_with_its_creation_is_refused() -> None:
    with pytest.raises(ValueError, match="begins"):
        fold([])
    fleet = approved()
    with pytest.raises(ValueError, match="begins with `created`"):
        fold(fleet.log[1:])
