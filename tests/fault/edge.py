"""Kill a device's agent at every touch of the disk, fill its disk at every write, feed it every bad release: it must answer, and end.

    python -m tests.fault.edge            # everything, some minutes
    python -m tests.fault.edge --stride 7 # every seventh touch

The agent is the real loop, record, slots, trust, download and installer over a real folder; a kill is a real SIGKILL of a forked process at
the n-th touch, counted and not slept for. `once`: killed there, started again, left alone. `for ever`: killed at that touch in each of its
lives. After each: does it answer, exactly as a verified release that it may run? Does it end, after a bounded number of starts and
bytes? Then the same while it enrols and renews (`edge_identity`). Faults are counted by the place where they strike. Not shown here: what
a power cut does to writes that were not synced. Prints counts; exit code 1 if anything is lost.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from pipeline.releases.target import ReleaseTarget
from pipeline.rollout.device import BYTE_BUDGET_FACTOR, RESTING, TRIES, State
from pipeline.rollout.device_file import RecordInvalidError, from_json
from tests.fault.edge_hostile import hostile
from tests.fault.edge_identity import Office, identity_faults
from tests.kit.agents import AgentBench
from tests.kit.bundles import TEXTS, Trust, text_bundle, text_probabilities, text_table, wrong_golden
from tests.kit.kill_switch import FullDisk, RealKill
from workers.edge.download import part_path
from workers.edge.serving import NoModelError

LIVES = 14
"""Of an agent that is killed at the same touch for ever: more than a candidate has tries, in shadow and in trial."""
TURNS = 6
"""In which an agent that is left alone must come to rest."""
WRONG_ANSWER = 3
"""Exit code of a child that did not answer as it must."""


class Fleet:
    """A published fleet, made once: three good releases, one that misses its golden samples, and a device of each past."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trust = folder, Trust.make(folder)
        self.targets = {n: self.trust.publish(text_bundle(folder / "bundles", release=n, seed=n), release=n) for n in (1, 2, 3)}
        bad = text_bundle(folder / "bundles", release=4, seed=4, golden=wrong_golden(4))
        self.bad = self.trust.publish(bad, release=4)
        self.tables: dict[str, NDArray[np.float32]] = {target.digest: text_table(n) for n, target in self.targets.items()}
        (folder / "past-0").mkdir()
        for runs in (1, 2):
            shutil.copytree(folder / f"past-{runs - 1}", folder / f"past-{runs}")
            bench = AgentBench(folder / f"past-{runs}", self.trust)
            bench.assign(self.targets[runs], runs)
            bench.agent.turn()

    def check(self, bench: AgentBench) -> str:
        """Which release answers: exactly as it must. Raises AssertionError, NoModelError."""
        answer = bench.device.serving.predict(TEXTS)
        for text, row in zip(TEXTS, answer.probabilities_BK, strict=True):
            if np.abs(row - text_probabilities(text, self.tables[answer.slot.digest])).max() > 1e-4:
                raise AssertionError(f"{text!r} is answered otherwise than {answer.slot.digest[:12]} does")
        return answer.slot.digest


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a device has lived through, what it is told next, and how that must end."""

    name: str
    past: int
    """Releases installed before, one after the other."""
    target: ReleaseTarget
    ends: tuple[State, ...] = (State.CONFIRMED,)
    dies_after: int | None = None
    """Answers of the candidate, on each start."""
    part: bytes | None = None
    """What an earlier download left."""

    def folder(self, fleet: Fleet, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(fleet.folder / f"past-{self.past}", to)
        if self.part is not None:
            (to / "downloads").mkdir(exist_ok=True)
            part_path(to / "downloads", self.target.digest).write_bytes(self.part)
        return to

    def open(self, fleet: Fleet, folder: Path) -> AgentBench:
        bench = AgentBench(folder, fleet.trust)
        bench.assign(self.target, self.past + 1)
        if self.dies_after is not None:
            bench.device.models.deadly[self.target.digest] = self.dies_after
        return bench


def scenarios(fleet: Fleet) -> list[Scenario]:
    one, two, three = (fleet.targets[n] for n in (1, 2, 3))
    whole = (fleet.trust.repository / "bundles" / two.digest).read_bytes()
    return [
        Scenario(name="first install", past=0, target=one),
        Scenario(name="update", past=1, target=two),
        Scenario(name="update over two", past=2, target=three),
        Scenario(name="way back", past=2, target=one),
        Scenario(name="resumed", past=1, target=two, part=whole[: len(whole) // 2]),
        Scenario(name="rotten part", past=1, target=two, part=b"rot" * 300),
        Scenario(name="wrong golden", past=1, target=fleet.bad, ends=(State.FAILED,)),
        Scenario(name="dies in trial", past=1, target=two, ends=(State.FAILED, State.ROLLED_BACK), dies_after=len(TEXTS)),
    ]


@dataclass
class Report:
    """What came of the faults."""

    faults: Counter[str] = field(default_factory=Counter)
    """By kind."""
    states: Counter[str] = field(default_factory=Counter)
    """In which a kill found the device, each kill counted."""
    lost: list[str] = field(default_factory=list)
    """What did not answer, answered wrongly, or did not end."""
    seconds: float = 0.0
    say: Callable[[str], None] = lambda line: None

    def lose(self, what: str) -> None:
        self.lost.append(what)
        self.say(f"LOST {what}")

    def to_json(self) -> str:
        facts = {"faults": dict(self.faults), "states": dict(self.states), "lost": self.lost, "seconds": self.seconds}
        return json.dumps({"name": "edge_faults", **facts})


@dataclass(frozen=True, kw_only=True)
class Life:
    """How one process of the agent ended."""

    was_killed: bool
    answered: bool
    starts: int
    """Of the candidate."""


def live(fleet: Fleet, scenario: Scenario, folder: Path, *, step: int, with_boot: bool) -> Life:
    """One turn in a process of its own, killed at touch `step`; without `with_boot` it has answered before touches are counted."""
    told, tell = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(told)
        code = 1
        try:
            switch = RealKill(step)
            if with_boot:
                with switch:
                    scenario.open(fleet, folder).agent.turn()
            else:
                bench = scenario.open(fleet, folder)
                if bench.device.record.current.incumbent is not None:
                    fleet.check(bench)
                bench.device.models.on_start = lambda digest: _tell(tell, digest == scenario.target.digest)
                with switch:
                    bench.agent.turn()
            code = 0
        except (AssertionError, NoModelError):
            code = WRONG_ANSWER
        finally:
            os._exit(code)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        starts = len(pipe.read())
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Life(was_killed=True, answered=True, starts=starts)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, WRONG_ANSWER):
        raise AssertionError(f"{scenario.name}, touch {step}: the child failed")
    return Life(was_killed=False, answered=code == 0, starts=starts)


def _tell(pipe: int, is_candidate: bool) -> None:
    if is_candidate:
        os.write(pipe, b"s")


def kills_once(fleet: Fleet, scenario: Scenario, folder: Path, report: Report, stride: int) -> None:
    for step in range(1, 100_000, stride):
        where = scenario.folder(fleet, folder)
        life = live(fleet, scenario, where, step=step, with_boot=True)
        if not life.was_killed:
            return
        report.faults["killed once"] += 1
        report.states[state_of(where)] += 1
        settle(fleet, scenario, where, report, f"{scenario.name}: killed once at touch {step}", ends=scenario.ends)


def kills_for_ever(fleet: Fleet, scenario: Scenario, folder: Path, report: Report, stride: int) -> None:
    for step in range(1, 100_000, stride):
        where, starts = scenario.folder(fleet, folder), 0
        report.faults["killed for ever"] += 1
        what = f"{scenario.name}: killed for ever at touch {step}"
        for number in range(LIVES):
            life = live(fleet, scenario, where, step=step, with_boot=False)
            starts += life.starts
            if not life.answered:
                report.lose(f"{what}: life {number} did not answer")
            if not life.was_killed and number == 0:
                report.faults["killed for ever"] -= 1
                return
            if not life.was_killed:
                break
            report.states[state_of(where)] += 1
        if starts > 4 * TRIES:  # in shadow, and twice in a trial, each as often as there are tries
            report.lose(f"{what}: started {starts} times")
        settle(fleet, scenario, where, report, what, ends=(*scenario.ends, State.FAILED, State.ROLLED_BACK))


def full_disk(fleet: Fleet, scenario: Scenario, folder: Path, report: Report, stride: int, *, for_ever: bool) -> None:
    kind = "disk full from then on" if for_ever else "one write refused"
    for step in range(1, 100_000, stride):
        where = scenario.folder(fleet, folder)
        bench = scenario.open(fleet, where)
        what = f"{scenario.name}: {kind}, write {step}"
        with FullDisk(step, for_ever=for_ever) as switch:
            for _ in range(TURNS):
                bench.agent.turn()
        if not switch.fired:
            return
        report.faults[kind] += 1
        if scenario.past > 0:
            fleet.check(bench)
        if from_json((where / "state.json").read_bytes()) != bench.device.record.current:
            report.lose(f"{what}: what it believes is not what is on its disk")
        settle(fleet, scenario, where, report, what, ends=(*scenario.ends, State.FAILED, State.ROLLED_BACK))


def settle(fleet: Fleet, scenario: Scenario, folder: Path, report: Report, what: str, *, ends: Sequence[State]) -> None:
    """Left alone it answers at once, ends as it must, and answers on."""
    try:
        bench = scenario.open(fleet, folder)
        before = bench.device.record.current.incumbent
        if before is not None or scenario.past > 0:
            fleet.check(bench)
        for _ in range(TURNS):
            bench.agent.turn()
        record = bench.device.record.current
        if record.state not in RESTING or record.state not in ends:
            report.lose(f"{what}: it is in {record.state} ({record.code} {record.detail})")
        if record.fetched_bytes > (BYTE_BUDGET_FACTOR + 2) * scenario.target.length:
            report.lose(f"{what}: it fetched {record.fetched_bytes} bytes")
        if scenario.past > 0 or record.state is State.CONFIRMED:
            answers = fleet.check(bench)
            if (answers == scenario.target.digest) != (record.state is State.CONFIRMED):
                report.lose(f"{what}: {record.state}, and {answers[:12]} answers")
    except (AssertionError, NoModelError, RecordInvalidError, OSError) as error:
        report.lose(f"{what}: {error}")


def state_of(folder: Path) -> str:
    try:
        return from_json((folder / "state.json").read_bytes()).state
    except FileNotFoundError:
        return "no record"


def torture(folder: Path, *, stride: int, say: Callable[[str], None], chosen: Sequence[str] = ()) -> Report:
    """Every fault at every `stride`-th place."""
    report, began_s = Report(say=say), time.monotonic()
    logging.disable(logging.ERROR)
    # A kill loses nothing that was written; power cuts are not tried.
    with mock.patch.object(os, "fsync", lambda descriptor: None):  # noqa: PT008 - a mock would keep every call
        fleet = Fleet(folder)
        for scenario in scenarios(fleet):
            if chosen and scenario.name not in chosen:
                continue
            kills_once(fleet, scenario, folder / "device", report, stride)
            kills_for_ever(fleet, scenario, folder / "device", report, stride)
            for for_ever in (False, True):
                full_disk(fleet, scenario, folder / "device", report, stride, for_ever=for_ever)
            say(f"{scenario.name:>16}  {sum(report.faults.values()):6} faults so far, {len(report.lost)} lost")
        if not chosen or "identity" in chosen:
            office = Office(folder / "office")
            for kind, wrong in identity_faults(office, fleet.trust, fleet.folder / "past-1", folder / "identity", stride=stride):
                report.faults[kind] += 1
                if wrong:
                    report.lose(wrong)
            say(f"{'identity':>16}  {sum(report.faults.values()):6} faults so far, {len(report.lost)} lost")
        if not chosen or "hostile" in chosen:
            for name, verdict in hostile(folder / "hostile"):
                report.faults["hostile"] += 1
                say(f"{'hostile':>16}  {name}: {verdict or 'answers, and says why'}")
                if verdict:
                    report.lose(f"{name}: {verdict}")
    logging.disable(logging.NOTSET)
    report.seconds = time.monotonic() - began_s
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="take each n-th touch only")
    parser.add_argument("--scenario", action="append", default=[], help="this one only, of the scenarios, `identity` and `hostile`")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = torture(Path(folder), stride=given.stride, say=lambda line: print(line, flush=True), chosen=given.scenario)
    for kind, count in sorted(report.faults.items()):
        print(f"{kind:>24}  {count:6}")
    print("killed in state: " + ", ".join(f"{state} {count}" for state, count in sorted(report.states.items())))
    print(f"{sum(report.faults.values())} faults, {report.seconds:.0f} s: {len(report.lost)} lost")
    if given.json:
        print(report.to_json())
    return 1 if report.lost else 0


if __name__ == "__main__":
    sys.exit(main())
