"""What an operator can do with a rollout, what late reports change of it, and a log that somebody edited."""

from dataclasses import replace

import pytest

from pipeline.rollout.events import RolloutLogBrokenError, check_chain, follow
from pipeline.rollout.evidence import Progress
from pipeline.rollout.rollout import RolloutState, Stage, WavePhase, fold
from pipeline.rollout.sequential import ALPHA_LEAST
from pipeline.rollout.steering import Action, ErrorBudgetSpentError, RolloutActionError, supersede
from tests.kit.fleets import PREVIOUS, Fleet, approved, plan, stages


def test_a_pause_offers_nothing_new_and_stops_the_clock() -> None:
    fleet = approved()
    fleet.report(fleet.offered()[0], Progress.CONFIRMED)
    fleet.tick()
    fleet.act(Action.PAUSE)
    fleet.wait(1000.0)
    assert fleet.tick() == []
    fleet.call()
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


def test_pausing_and_resuming_costs_no_error_budget_and_forgets_no_failure() -> None:
    fleet = approved(200, waves=(1.0,), in_flight_first=200)
    for device in fleet.offered()[:3]:
        fleet.report(device, Progress.FAILED)
    fleet.tick()
    before = fleet.rollout
    for _ in range(60):
        fleet.act(Action.PAUSE)
        fleet.act(Action.RESUME)
    assert (fleet.rollout.tests, fleet.rollout.alpha_spent) == (before.tests, before.alpha_spent)
    assert fleet.rollout.tests["x86"].failed == 3


def test_resuming_after_halts_ends_before_the_tests_find_nothing_any_more() -> None:
    fleet = approved(400, waves=(1.0,), in_flight_first=400)

    def fail_and_resume(times: int) -> None:
        for _ in range(times):
            while fleet.rollout.state is RolloutState.RUNNING:
                fleet.report(fleet.offered()[0], Progress.FAILED)
                fleet.tick()
            assert fleet.rollout.tests["x86"].alpha >= ALPHA_LEAST
            fleet.act(Action.RESUME)
            fleet.tick()

    fail_and_resume(5)
    with pytest.raises(ErrorBudgetSpentError, match="create a new rollout"):
        fail_and_resume(10)
    assert fleet.rollout.state is RolloutState.HALTED
    fleet.act(Action.ABORT_KEEP)


def test_a_deadline_that_is_resumed_costs_no_error_budget() -> None:
    fleet = approved()
    fleet.wait(121.0)
    fleet.call()
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    spent = fleet.rollout.alpha_spent
    fleet.act(Action.RESUME)
    assert (fleet.rollout.state, fleet.rollout.alpha_spent) == (RolloutState.RUNNING, spent)
    assert fleet.rollout.tests


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


def test_a_revert_says_who_ran_the_release_before_and_so_runs_it_still() -> None:
    fleet = approved(9, waves=(0.5, 1.0))
    canary = fleet.offered()[0]
    before = Fleet(9, plan=fleet.rollout.plan, previous=fleet.rollout.plan.target)
    before.facts = {**before.facts, **{device: facts for device, facts in fleet.facts.items() if device != canary}}
    before.facts = {device: replace(facts, target=PREVIOUS) if device != canary else facts for device, facts in before.facts.items()}
    before.act(Action.APPROVE)
    before.tick()
    before.report(canary, Progress.CONFIRMED)
    before.act(Action.ABORT_REVERT)
    before.wait(200)
    before.tick()
    assert before.rollout.state is RolloutState.REVERTED
    assert "1 ran this release before the rollout and run it still" in before.rollout.reason


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
