"""A rollout wave by wave: who gets the release when, and what stops it."""

from dataclasses import replace

from pipeline.rollout.events import EventKind
from pipeline.rollout.evidence import Progress
from pipeline.rollout.rollout import RolloutState, Stage, WavePhase
from pipeline.rollout.sequential import CLASSES_MOST, OTHERS, POOLED
from pipeline.rollout.steering import Action, advance, excuse_absence
from pipeline.rollout.targeting import Selector
from tests.kit.fleets import PREVIOUS, Fleet, approved, plan, stages


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


def test_a_device_that_is_told_to_call_rarely_is_not_lost_for_calling_rarely() -> None:
    fleet = approved(deadline_s=1000.0)
    canary = fleet.offered()[0]
    fleet.report(canary, Progress.SWITCHED)
    fleet.wait(149.0)
    moved, _ = advance(fleet.rollout, replace(fleet.evidence, sync_s=50.0), now=fleet.now)
    assert moved.members[canary].stage is Stage.OFFERED
    moved, _ = advance(fleet.rollout, replace(fleet.evidence, sync_s=50.0), now=fleet.now + 2)
    assert moved.members[canary].stage is Stage.LOST


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


def test_a_late_hardware_class_shares_a_test_with_other_late_ones() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.wait(2.0)
    fleet.tick()
    fleet.enrol("d-late", hardware="riscv")
    fleet.tick()
    assert set(fleet.rollout.tests) == {"x86", OTHERS, POOLED}
    spent = fleet.rollout.alpha_spent
    for number in range(80):
        fleet.enrol(f"d-{number:03}", hardware=f"made-up-{number}")
        fleet.tick()
    assert set(fleet.rollout.tests) == {"x86", OTHERS, POOLED}
    assert fleet.rollout.alpha_spent == spent, "names that devices give themselves cost the others nothing"
    for name in [name for name in fleet.offered() if name != "d-late"]:
        fleet.report(name, Progress.FAILED)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED


def test_a_wave_of_many_classes_tests_the_largest_by_themselves() -> None:
    fleet = Fleet(100, plan=plan(waves=(1.0,)), previous=PREVIOUS, hardware=lambda name: f"hw{min(int(name[2:]) // 5, 11)}")
    fleet.act(Action.APPROVE)
    fleet.tick()
    assert len(fleet.rollout.tests) == CLASSES_MOST + 2
    assert "hw11" in fleet.rollout.tests, "45 of the devices"
    assert OTHERS in fleet.rollout.tests


def test_a_revoked_device_leaves_and_holds_nobody_up() -> None:
    fleet = approved()
    (canary,) = fleet.offered()
    fleet.revoke(canary)
    fleet.tick()
    assert stages(fleet)[canary] is Stage.LEFT
    assert fleet.settle().count(Stage.CONFIRMED) == 2


def test_offers_ask_the_network_for_no_more_than_the_plan_allows() -> None:
    fleet = approved(200, waves=(1.0,), in_flight_first=200, bundle_bytes=1_000, bytes_per_s=10_000.0)
    began_s, sent = fleet.now, len(fleet.offered())
    assert sent == 10, "a second's worth at once"
    while len(fleet.ever_assigned) < 200:
        fleet.wait(0.3)
        fleet.call()
        fleet.tick()
        assert len(fleet.ever_assigned) * 1_000 <= 10_000.0 * (fleet.now - began_s + 1.0) + 1e-6
    assert fleet.now - began_s <= 21.0, "and what is allowed is used"


def test_a_bundle_larger_than_the_bandwidth_is_offered_one_at_a_time() -> None:
    fleet = approved(5, waves=(1.0,), bundle_bytes=100_000, bytes_per_s=10_000.0)
    assert len(fleet.offered()) == 1
    fleet.wait(9.0)
    fleet.call()
    assert fleet.tick() == []
    fleet.wait(1.1)
    fleet.call()
    fleet.tick()
    assert len(fleet.ever_assigned) == 2


def test_devices_that_the_selector_leaves_out_are_never_offered_it() -> None:
    fleet = Fleet(6, plan=plan(selector=Selector(labels=("ring=beta",))), previous=PREVIOUS)
    for device in ("d-1", "d-4"):
        fleet.facts[device] = replace(fleet.facts[device], labels=frozenset({"ring=beta"}))
    fleet.act(Action.APPROVE)
    assert fleet.settle().state is RolloutState.COMPLETED
    assert fleet.ever_assigned == {"d-1", "d-4"}
    fleet = approved(6, waves=(4, 1.0))
    assert len(fleet.offered()) == 4
