"""How often a rollout halts, and how many devices have switched by then, against the true failure rate: the pure machine, many times.

Each rollout is the real one (`pipeline.rollout`): 2,000 devices of one hardware class, waves of 100 devices, 20 % and 100 %, in-flight
caps, every offered device reporting in each turn; then the same with a canary of 20, and in eight hardware classes. Nothing is
approximated; the figures are shares with their 95 % intervals.
"""

import multiprocessing
import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from pipeline.rollout.evidence import DeviceFacts, Evidence, Progress
from pipeline.rollout.plan import Plan
from pipeline.rollout.rollout import TERMINAL, RolloutState, Stage
from pipeline.rollout.steering import Action, advance, command, create
from tests.bench.compare import Comparison, alone

RATES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.20)
DEVICES = 2_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of rollout."""

    first_wave: int
    classes: int
    rates: tuple[float, ...]


CASES = (
    Case(first_wave=100, classes=1, rates=RATES),
    Case(first_wave=20, classes=1, rates=(0.01, 0.02)),
    Case(first_wave=100, classes=8, rates=(0.01, 0.05, 0.20, 1.0)),
)
"""A first wave of 73 and more is judged by its tests; a smaller one halts at its first failure, whatever the rate."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one simulated rollout ended."""

    halted: bool
    switched: int


def run(rows: int = DEVICES, runs: int = 1_000) -> list[Comparison]:
    """`rows` devices, `runs` rollouts for each case and rate."""
    found = []
    with multiprocessing.get_context("spawn").Pool(max(1, (os.cpu_count() or 1))) as pool:
        for case in CASES:
            for rate in case.rates:
                outcomes = pool.starmap(simulate, [(case, rows, rate, seed) for seed in range(runs)], chunksize=10)
                found += _told(case, rate, rows, outcomes)
    return found


def simulate(case: Case, devices: int, rate: float, seed: int) -> Outcome:
    """One rollout, each install failing with probability `rate`."""
    rng = random.Random(f"{rate} {seed}")
    plan = Plan(
        rollout_id="r",
        population="p",
        target="new",
        digest="b",
        salt=str(seed),
        waves=(case.first_wave, 0.2, 1.0),
        soak_s=0.0,
        deadline_s=1e6,
        lost_after_s=1e6,
    )
    hardware = {f"d{number}": f"class-{number % case.classes}" for number in range(devices)}
    facts = {device: DeviceFacts(hardware=kind, last_seen_s=1.0, target="old") for device, kind in hardware.items()}
    rollout, _ = create(plan, now=1.0)
    rollout, _ = command(rollout, Action.APPROVE, now=1.0)
    switched = 0
    while rollout.state not in TERMINAL and rollout.state is not RolloutState.HALTED:
        rollout, _ = advance(rollout, Evidence(devices=facts, listening_since_s=1.0), now=1.0)
        offered = [device for device, member in rollout.members.items() if member.stage is Stage.OFFERED]
        switched += len(offered)
        for device in offered:
            progress = Progress.FAILED if rng.random() < rate else Progress.CONFIRMED
            facts[device] = DeviceFacts(
                hardware=hardware[device],
                last_seen_s=1.0,
                target="new",
                digest="b",
                running_digest="b",
                progress=progress,
                progress_s=rng.random(),
            )
    return Outcome(halted=rollout.state is RolloutState.HALTED, switched=switched)


def _told(case: Case, rate: float, devices: int, outcomes: Sequence[Outcome]) -> list[Comparison]:
    halted, n = sum(outcome.halted for outcome in outcomes), len(outcomes)
    interval = binomtest(halted, n).proportion_ci()
    name = f"halt, {devices:,} devices in the pure machine"
    kind = f"first wave of {case.first_wave}, {case.classes} hardware classes" if case.classes > 1 else f"first wave of {case.first_wave}"
    fails, between = f"{kind}, {rate:.1%} of installs fail", f"{interval.low:.3f} to {interval.high:.3f}"
    touched = statistics.median(outcome.switched for outcome in outcomes)
    return [
        alone(name=name, case=f"{fails}: share of rollouts that halt ({between})", figure=halted / n, unit="of 1", n=n),
        alone(name=name, case=f"{fails}: median devices that switched", figure=touched, unit="devices", n=n),
    ]
