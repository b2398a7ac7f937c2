"""Whatever devices, operators and clocks do: what must hold of every rollout."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.errors import FleetError
from pipeline.rollout.evidence import Progress, Serving
from pipeline.rollout.plan import OnHalt
from pipeline.rollout.rollout import BROKEN, TERMINAL, RolloutState, Stage
from pipeline.rollout.sequential import ALPHA_TOTAL
from pipeline.rollout.steering import Action, advance, excuse_absence
from tests.kit.fleets import Fleet, plan


class AnyRollout(RuleBasedStateMachine):
    @initialize(
        devices=st.integers(0, 90),
        waves=st.sampled_from([(1.0,), (0.34, 1.0), (0.1, 0.5, 1.0), (40, 1.0)]),
        previous=st.booleans(),
        on_halt=st.sampled_from(OnHalt),
    )
    def begin(self, devices: int, waves: tuple[float, ...], previous: bool, on_halt: OnHalt) -> None:
        classes = ("x86", "pi4")
        self.fleet = Fleet(
            devices,
            plan=plan(waves=waves, on_halt=on_halt, bundle_bytes=10, bytes_per_s=60.0),
            previous="releases/small-000001.kdpb" if previous else "",
            hardware=lambda n: classes[len(n) % 2],
        )
        self.fleet.act(Action.APPROVE)
        self.wave = 0
        self.ended: object = None
        self.broken: set[str] = set()

    @rule(data=st.data(), progress=st.sampled_from(list(Progress)))
    def report(self, data: st.DataObject, progress: Progress) -> None:
        if self.fleet.facts:
            self.fleet.report(data.draw(st.sampled_from(sorted(self.fleet.facts))), progress)

    @rule(progress=st.sampled_from([Progress.CONFIRMED, Progress.CONFIRMED, Progress.FAILED, Progress.SWITCHED]))
    def all_offered_report(self, progress: Progress) -> None:
        for device in self.fleet.offered():
            self.fleet.report(device, progress)

    @rule(seconds=st.sampled_from([0.1, 2.0, 31.0, 130.0, -50.0]))
    def pass_time(self, seconds: float) -> None:
        self.fleet.wait(seconds)

    @rule()
    def call(self) -> None:
        self.fleet.call()

    @rule(name=st.integers(1000, 1010))
    def enrol(self, name: int) -> None:
        if f"d-{name}" not in self.fleet.facts:
            self.fleet.enrol(f"d-{name}")

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        if self.fleet.facts:
            self.fleet.revoke(data.draw(st.sampled_from(sorted(self.fleet.facts))))

    @rule(latency_ms=st.sampled_from([1.0, 5.0, None]))
    def tell(self, latency_ms: float | None) -> None:
        """Devices that run the release tell one thing, the others another; or those that run it tell nothing."""
        for device, facts in self.fleet.facts.items():
            runs_it = facts.running_digest == self.fleet.rollout.plan.digest
            told_ms = latency_ms if runs_it else 1.0
            serving = None if told_ms is None else Serving(answers=1, confidence_mean=0.9, latency_p50_ms=told_ms)
            self.fleet.facts[device] = replace(facts, serving=serving)

    @rule(action=st.sampled_from(list(Action)))
    def act(self, action: Action) -> None:
        before = self.fleet.rollout
        try:
            self.fleet.act(action)
        except FleetError:
            assert self.fleet.rollout is before

    @rule(reason=st.sampled_from(["", "", "", "the release was yanked (tested)"]))
    def yank(self, reason: str) -> None:
        self.fleet.release_gone = reason

    @rule(seconds=st.floats(0, 1000))
    def restart(self, seconds: float) -> None:
        since_s = self.fleet.now
        self.fleet.wait(seconds)
        self.fleet.listening_since_s = self.fleet.now
        self.fleet._take(*excuse_absence(self.fleet.rollout, since_s=since_s, now=self.fleet.now))

    @rule()
    def tick(self) -> None:
        evidence = self.fleet.evidence
        self.fleet.tick()
        assert advance(self.fleet.rollout, evidence, now=self.fleet.now)[1] == [], "the same evidence again says nothing new"

    @invariant()
    def holds(self) -> None:
        rollout = self.fleet.rollout
        assert rollout.wave >= self.wave, "a wave never goes back"
        self.wave = rollout.wave
        if self.ended is not None:
            assert rollout == self.ended, "terminal is terminal"
        self.ended = rollout if rollout.state in TERMINAL else None
        assert rollout.alpha_spent + rollout.alpha_compared <= ALPHA_TOTAL * (1 + 1e-9)
        now_broken = {device for device, member in rollout.members.items() if member.stage in BROKEN}
        assert self.broken <= now_broken, "a device that failed is never counted as good again"
        self.broken = now_broken
        cap = max(rollout.plan.in_flight_first, 5)
        assert rollout.count(Stage.OFFERED) <= cap
        if rollout.state is RolloutState.COMPLETED:
            unseen = [member for member in rollout.members.values() if member.stage in BROKEN and not member.acknowledged]
            assert len(rollout.members) >= 73 or not unseen, "a small rollout completes only when nobody failed unseen"
            assert rollout.count(Stage.PENDING, Stage.OFFERED, Stage.WITHDRAWN) == 0


TestAnyRollout = AnyRollout.TestCase
TestAnyRollout.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
