"""A release that installs perfectly and answers worse: it is held against devices that were not yet offered it, and stops itself."""

from dataclasses import replace

from pipeline.rollout.events import EventKind
from pipeline.rollout.evidence import Progress, Serving
from pipeline.rollout.plan import OnHalt
from pipeline.rollout.rollout import RolloutState, Stage, WavePhase
from pipeline.rollout.sequential import ALPHA_TOTAL
from pipeline.rollout.steering import Action
from tests.kit.fleets import PREVIOUS, Fleet, approved


def told(fleet: Fleet, *, new_ms: float | None = 1.0, old_ms: float | None = 1.0) -> None:
    """Every device tells its latency; None tells nothing."""
    digest = fleet.rollout.plan.digest
    for number, (device, facts) in enumerate(fleet.facts.items()):
        median_ms = new_ms if facts.running_digest == digest else old_ms
        serving = None
        if median_ms is not None:
            serving = Serving(answers=10, confidence_mean=0.9, latency_p50_ms=median_ms * (1 + number % 7 / 100))
        fleet.facts[device] = replace(facts, serving=serving)


def first_wave_over(**changes: object) -> Fleet:
    """500 devices; the 100 of the first wave have confirmed, its soak is about to end."""
    fleet = approved(500, **{"waves": (100, 1.0), "in_flight_first": 100, **changes})
    for device in fleet.offered():
        fleet.report(device, Progress.CONFIRMED)
    fleet.tick()
    assert fleet.rollout.phase is WavePhase.SOAK
    fleet.wait(2.1)
    fleet.call()
    return fleet


def test_a_release_that_is_twice_as_slow_halts_after_its_first_wave_with_the_numbers() -> None:
    fleet = first_wave_over()
    told(fleet, new_ms=2.0)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "wave 1: worse than devices not yet offered it, latency: median 2.06 ms against 1.03 ms" in fleet.rollout.reason
    assert "100 devices of the wave, 400 not yet offered" in fleet.rollout.reason
    assert len(fleet.ever_assigned) == 100


def test_a_release_that_is_as_good_goes_on_and_says_what_that_rests_on() -> None:
    fleet = first_wave_over()
    told(fleet)
    fleet.tick()
    assert fleet.rollout.wave == 2
    (passed,) = [event.facts["reason"] for event in fleet.log if event.kind is EventKind.WAVE_PASSED]
    assert "latency: median" in passed
    assert "too few devices on one side to compare agreement" in passed


def test_the_last_wave_has_nobody_to_compare_with_and_says_so() -> None:
    fleet = first_wave_over()
    told(fleet)
    fleet.settle()
    assert fleet.rollout.state is RolloutState.COMPLETED
    last = [event.facts["reason"] for event in fleet.log if event.kind is EventKind.WAVE_PASSED][-1]
    assert "too few devices on one side to compare agreement, latency, confidence" in last


def test_a_wave_that_does_not_tell_is_held_and_goes_on_once_it_does() -> None:
    fleet = first_wave_over()
    told(fleet, new_ms=None)
    fleet.tick()
    assert (fleet.rollout.state, fleet.rollout.phase) == (RolloutState.RUNNING, WavePhase.GATE)
    fleet.wait(60.0)
    fleet.call()
    assert fleet.tick() == []
    told(fleet)
    fleet.tick()
    assert fleet.rollout.wave == 2


def test_a_wave_that_never_tells_halts_at_the_deadline() -> None:
    fleet = first_wave_over()
    told(fleet, new_ms=None)
    fleet.tick()
    fleet.wait(120.1)
    fleet.call()
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "do not tell how they answer, others do" in fleet.rollout.reason


def test_what_was_told_long_ago_is_not_of_the_same_time() -> None:
    fleet = first_wave_over()
    told(fleet, new_ms=2.0)
    control = [device for device, facts in fleet.facts.items() if facts.running_digest != fleet.rollout.plan.digest]
    for device in control:
        fleet.facts[device] = replace(fleet.facts[device], last_seen_s=fleet.now - 601)
    fleet.tick()
    assert fleet.rollout.wave == 2, "nobody is left to compare with"


def test_an_operator_who_resumes_accepts_what_the_halt_was_about_and_nothing_else() -> None:
    fleet = first_wave_over()
    told(fleet, new_ms=2.0)
    fleet.tick()
    fleet.act(Action.RESUME)
    assert "accepts latency" in fleet.rollout.reason
    fleet.tick()
    fleet.wait(2.1)
    fleet.call()
    fleet.tick()
    assert fleet.rollout.wave == 2
    assert any("latency accepted by the operator" in event.facts.get("reason", "") for event in fleet.log)
    assert fleet.rollout.alpha_spent + fleet.rollout.alpha_compared <= ALPHA_TOTAL


def test_a_halt_goes_back_by_itself_where_the_plan_says_so() -> None:
    fleet = first_wave_over(on_halt=OnHalt.REVERT)
    told(fleet, new_ms=2.0)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.REVERTING
    assert all(facts.target == PREVIOUS for facts in fleet.facts.values())
    fleet.wait(120.1)
    fleet.call()
    fleet.tick()
    assert fleet.rollout.state is RolloutState.REVERTED
    assert "it was halted: wave 1: worse than devices not yet offered it" in fleet.rollout.reason


def test_a_failed_canary_goes_back_by_itself_too() -> None:
    fleet = approved(9, waves=(0.5, 1.0), on_halt=OnHalt.REVERT)
    good, bad, *_ = fleet.offered()
    fleet.report(good, Progress.CONFIRMED)
    fleet.report(bad, Progress.FAILED, code="GOLDEN_MISMATCH")
    fleet.tick()
    assert fleet.rollout.state is RolloutState.REVERTING
    fleet.report(good, Progress.CONFIRMED)
    for device, facts in list(fleet.facts.items()):
        fleet.facts[device] = replace(facts, running_digest=facts.digest)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.REVERTED
    assert "GOLDEN_MISMATCH" in fleet.rollout.reason
    assert fleet.rollout.count(Stage.FAILED) == 1


def test_a_wave_is_as_large_as_those_that_do_not_refuse() -> None:
    fleet = approved(200, waves=(90, 1.0), in_flight_first=90)
    first, *others = fleet.offered()
    for number, device in enumerate(others):
        fleet.report(device, Progress.INCOMPATIBLE if number < 18 else Progress.CONFIRMED)
    fleet.tick()
    fleet.report(first, Progress.FAILED)
    fleet.tick()
    assert fleet.rollout.state is RolloutState.HALTED
    assert "1 of 72 devices failed" in fleet.rollout.reason
