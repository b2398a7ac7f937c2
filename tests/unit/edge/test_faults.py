"""A cheap part of `python -m tests.fault.edge`: full disks, kills for ever and hostile releases, without forking."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.rollout.device import RESTING, TRIES, State
from tests.fault.edge import LIVES, TURNS, Fleet, Report, Scenario, full_disk, scenarios
from tests.fault.edge_hostile import hostile
from tests.fault.edge_identity import Office, identity_faults
from tests.kit.agents import AgentBench
from tests.kit.kill_switch import KillSwitch

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield Fleet(tmp_path_factory.mktemp("fleet"))


def scenario(fleet: Fleet, name: str) -> Scenario:
    return next(one for one in scenarios(fleet) if one.name == name)


@pytest.mark.parametrize("for_ever", [False, True])
@pytest.mark.parametrize("name", ["update", "rotten part"])
def test_with_a_disk_full_at_any_write_it_answers_and_heals(fleet: Fleet, tmp_path: Path, name: str, for_ever: bool) -> None:
    report = Report()
    full_disk(fleet, scenario(fleet, name), tmp_path / "device", report, 13, for_ever=for_ever)
    assert report.lost == []
    assert sum(report.faults.values()) > 4


def test_killed_at_the_same_touch_for_ever_it_answers_each_time_and_does_not_try_for_ever(fleet: Fleet, tmp_path: Path) -> None:
    update = scenario(fleet, "update")
    for step in range(1, 1000, 29):
        folder, starts = update.folder(fleet, tmp_path / "device"), 0
        for _ in range(LIVES):
            bench = update.open(fleet, folder)
            fleet.check(bench)
            with KillSwitch(step) as switch:
                bench.agent.turn()
            starts += bench.device.models.started.count(update.target.digest)
            if not switch.fired:
                break
        assert starts <= 4 * TRIES
        bench = update.open(fleet, folder)
        for _ in range(TURNS):
            bench.agent.turn()
        assert bench.device.record.current.state in RESTING
        fleet.check(bench)
        if not switch.fired and bench.device.models.started == [fleet.targets[2].digest]:
            return
    raise AssertionError("never ran through")


def test_killed_after_each_start_of_the_candidate_it_gives_it_up_after_its_tries(fleet: Fleet, tmp_path: Path) -> None:
    update = scenario(fleet, "update")
    folder, starts = update.folder(fleet, tmp_path / "device"), 0
    for _ in range(LIVES):
        bench = update.open(fleet, folder)
        fleet.check(bench)
        switch = killed_after_a_start(bench, update)
        starts += bench.device.models.started.count(update.target.digest)
        if not switch.fired:
            break
    assert starts == TRIES
    assert (bench.device.record.current.state, bench.device.record.current.code) == (State.FAILED, "tries_spent")


def killed_after_a_start(bench: AgentBench, update: Scenario) -> KillSwitch:
    with KillSwitch(1 << 30) as switch:
        bench.device.models.on_start = lambda digest: switch.soon() if digest == update.target.digest else None
        bench.agent.turn()
    return switch


def test_killed_or_without_room_while_it_enrols_or_renews_it_answers_and_can_enrol_again(fleet: Fleet, tmp_path: Path) -> None:
    office = Office(tmp_path / "office")
    found = list(identity_faults(office, fleet.trust, fleet.folder / "past-1", tmp_path / "identity", stride=9))
    assert len(found) > 20
    assert [wrong for _, wrong in found if wrong] == []


def test_hostile_bytes_bundles_and_clocks_leave_it_answering(tmp_path: Path) -> None:
    assert [found for found in hostile(tmp_path / "hostile", processes=False) if found[1]] == []


@pytest.mark.slow
def test_a_part_of_the_whole_matrix_loses_nothing() -> None:
    command = [sys.executable, "-m", "tests.fault.edge", "--stride", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "0 lost" in done.stdout
