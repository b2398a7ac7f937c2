"""A population in memory: what devices would report, without any wire. It obeys `desired`, as the orchestrator's engine does."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from pipeline.rollout.events import Event, check_chain
from pipeline.rollout.evidence import DeviceFacts, Evidence, Progress
from pipeline.rollout.plan import Plan
from pipeline.rollout.rollout import Rollout, Stage, apply, fold
from pipeline.rollout.steering import Action, advance, command, create, desired

START_S = 1_000_000.0
PREVIOUS = "releases/small-000001.kdpb"


def plan(**changes: object) -> Plan:
    """A plan of two waves over a digest of b's, with short times."""
    values: dict[str, object] = {
        "rollout_id": "r1", "population": "mail", "target": "releases/small-000002.kdpb", "digest": "b" * 64, "salt": "salt",
        "waves": (0.34, 1.0), "soak_s": 2.0, "deadline_s": 120.0, "lost_after_s": 30.0,
    }  # fmt: skip
    return Plan(**{**values, **changes})  # type: ignore[arg-type]  # a test changes what it likes


class Fleet:
    """Devices and one rollout over them; every step checks that the log alone rebuilds the rollout."""

    def __init__(
        self, devices: Iterable[str] | int, *, plan: Plan, hardware: Callable[[str], str] = lambda _: "x86", previous: str = ""
    ) -> None:
        names = [f"d-{n}" for n in range(devices)] if isinstance(devices, int) else list(devices)
        self.now = START_S
        self.listening_since_s = START_S
        self.release_gone = ""
        digest = "a" * 64 if previous else ""
        self.facts = {
            name: DeviceFacts(
                hardware=hardware(name), last_seen_s=self.now, target=previous, digest=digest, running_digest=digest,
                progress=Progress.CONFIRMED if previous else Progress.SILENT,
            )
            for name in names
        }  # fmt: skip
        self.rollout, created = create(plan, now=self.now)
        self.log: list[Event] = [created]
        self.ever_assigned: set[str] = set()

    @property
    def evidence(self) -> Evidence:
        return Evidence(devices=dict(self.facts), listening_since_s=self.listening_since_s, release_gone=self.release_gone)

    def enrol(self, device: str, *, hardware: str = "x86") -> None:
        self.facts[device] = DeviceFacts(hardware=hardware, last_seen_s=self.now)

    def report(self, device: str, progress: Progress, *, code: str = "") -> None:
        facts = self.facts[device]
        running = facts.digest if progress in (Progress.CONFIRMED, Progress.SWITCHED) else facts.running_digest
        self.facts[device] = replace(
            facts, progress=progress, progress_s=self.now, last_seen_s=self.now, failure_code=code, running_digest=running
        )

    def revoke(self, device: str) -> None:
        self.facts[device] = replace(self.facts[device], is_revoked=True)

    def call(self, *devices: str) -> None:
        """The devices sync without news; none named is all."""
        for device in devices or tuple(self.facts):
            self.facts[device] = replace(self.facts[device], last_seen_s=self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def tick(self) -> list[Event]:
        return self._take(*advance(self.rollout, self.evidence, now=self.now))

    def act(self, action: Action) -> list[Event]:
        return self._take(*command(self.rollout, action, now=self.now))

    def offered(self) -> list[str]:
        """Devices that are assigned this rollout's release and have said nothing final."""
        digest = self.rollout.plan.digest
        done = (Progress.CONFIRMED, Progress.FAILED, Progress.INCOMPATIBLE)
        return sorted(device for device, facts in self.facts.items() if facts.digest == digest and facts.progress not in done)

    def settle(self, verdict: Callable[[str], Progress] = lambda _: Progress.CONFIRMED, *, rounds: int = 500) -> Rollout:
        """Devices call and report until the rollout rests; time passes a second a round."""
        self.tick()
        for _ in range(rounds):
            for device in self.offered():
                self.report(device, verdict(device), code="GOLDEN_MISMATCH" if verdict(device) is Progress.FAILED else "")
            self.call()
            self.wait(1.0)
            if not self.tick() and not self.offered() and self.rollout.is_terminal:
                break
        return self.rollout

    def _take(self, rollout: Rollout, events: list[Event]) -> list[Event]:
        self.log += events
        check_chain(rollout.plan.rollout_id, self.log)
        assert fold(self.log) == rollout, "the log alone rebuilds the rollout"
        assert events == [] or apply(fold(self.log[:-1]), self.log[-1]) == rollout
        self.rollout = rollout
        for device, target in desired(rollout).items():
            facts = self.facts.get(device)
            if facts is not None and facts.target != target:
                digest = {rollout.plan.target: rollout.plan.digest, "": ""}.get(target, "a" * 64)
                self.facts[device] = replace(facts, target=target, digest=digest, progress=Progress.SILENT, failure_code="")
                if target == rollout.plan.target:
                    self.ever_assigned.add(device)
        return events


def approved(devices: int | list[str] = 3, **changes: object) -> Fleet:
    """Devices with an earlier release, and an approved rollout of the plan so changed."""
    fleet = Fleet(devices, plan=plan(**changes), previous=PREVIOUS)
    fleet.act(Action.APPROVE)
    fleet.tick()
    return fleet


def stages(fleet: Fleet) -> dict[str, Stage]:
    """Stage of each device that takes part."""
    return {device: member.stage for device, member in fleet.rollout.members.items()}
