"""The agent's loop, one turn at a time, with a fleet that is a list of answers."""

import random
import statistics
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from pipeline.releases.assignment import MAX_GENERATION
from pipeline.releases.keys import Unlock
from pipeline.releases.repository import create_repository
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout.device import State
from pipeline.rollout.incumbent import BOOT_TRIES
from pipeline.rollout.slots import Slot
from tests.kit.agents import AgentBench
from tests.kit.bundles import NOW, TEXTS, Trust, text_bundle
from tests.kit.told_teacher import ToldTeacher
from workers.driver.folder import RunFolder
from workers.driver.passphrases import Passphrases
from workers.driver.rekeying import rekey
from workers.edge.allowance import AskOptions
from workers.edge.asking import Asking
from workers.edge.fleet_client import FleetRefusedError, FleetUnreachableError
from workers.edge.metrics import EdgeMetrics
from workers.edge.model_process import ModelDiedError
from workers.edge.pauses import FIRST_SYNC_S, JITTER, MAX_BACKOFF_S
from workers.edge.serving import DEATHS_ALLOWED, NoModelError


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trust, list[ReleaseTarget]]:
    folder = tmp_path_factory.mktemp("fleet")
    trust = Trust.make(folder)
    return trust, [trust.publish(text_bundle(folder / "bundles", release=n, seed=n), release=n) for n in (1, 2)]


@pytest.fixture
def bench(fleet: tuple[Trust, list[ReleaseTarget]], tmp_path: Path) -> AgentBench:
    return AgentBench(tmp_path / "device", fleet[0])


@pytest.fixture
def targets(fleet: tuple[Trust, list[ReleaseTarget]]) -> list[ReleaseTarget]:
    return fleet[1]


def test_one_turn_installs_and_reports_before_and_after_the_switch(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.assign(targets[0], 1)
    bench.agent.turn()
    assert bench.states() == ["CHECK", "DOWNLOAD", "VERIFY", "STAGED", "TRIAL", "CONFIRMED"]
    assert len(bench.requests) == 3
    assert bench.requests[0].running_digest == ""
    bench.agent.turn()
    assert bench.requests[-1].running_digest == targets[0].digest
    assert list(bench.requests[-1].reports) == []
    assert bench.registry.get_sample_value("kdpipe_edge_installs_total", {"state": "CONFIRMED"}) == 1
    assert bench.registry.get_sample_value("kdpipe_edge_state", {"state": "CONFIRMED"}) == 1


def test_the_next_sync_tells_how_many_answers_agreed_with_the_teachers(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    """What a wave's gate compares with devices that were not offered its release."""
    bench.assign(targets[0], 1)
    bench.agent.turn()
    serving, teacher = bench.device.serving, ToldTeacher()
    asking = Asking(
        AskOptions(share=1.0, per_hour=1e6),
        line=teacher,
        window=serving.window,
        metrics=EdgeMetrics(CollectorRegistry()),
        rng=random.Random(1),
    )
    answer = serving.predict(TEXTS)
    asking.give(TEXTS, answer)
    assert asking._audit is not None
    assert all(asking._audit.step() for _ in TEXTS)
    bench.agent.turn()
    told = bench.requests[-1].serving
    assert (told.answers, told.asked, told.agreed) == (5, 5, (answer.probabilities_BK.argmax(axis=1) == 1).sum())
    assert 0 < told.agreed < 5


def test_reports_are_kept_until_they_are_acknowledged(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.acknowledge = False
    bench.assign(targets[0], 1)
    bench.agent.turn()
    bench.agent.turn()
    assert len(bench.requests[-1].reports) == 6
    bench.acknowledge = True
    bench.agent.turn()
    bench.agent.turn()
    assert list(bench.requests[-1].reports) == []


def test_the_server_decides_the_interval_and_jitter_is_always_added(bench: AgentBench) -> None:
    waits = [bench.agent.turn() for _ in range(50)]
    assert all(10 * (1 - JITTER) <= wait <= 10 * (1 + JITTER) for wait in waits)
    assert len(set(waits)) == 50
    bench.next_sync_s = 1e9
    assert bench.agent.turn() <= 86_400 * (1 + JITTER)


def test_an_orchestrator_that_is_down_is_asked_less_and_less_often(bench: AgentBench) -> None:
    bench.error = FleetUnreachableError("Sync", "down")
    waits = [bench.agent.turn() for _ in range(200)]
    assert max(waits[:2]) <= 2 * FIRST_SYNC_S
    late = waits[12:]
    assert min(late) < 0.1 * MAX_BACKOFF_S, "full jitter: anywhere between at once and twice the backoff"
    assert 1.9 * MAX_BACKOFF_S < max(late) <= 2 * MAX_BACKOFF_S
    assert statistics.mean(late) == pytest.approx(MAX_BACKOFF_S, rel=0.15)
    assert "down" in bench.agent.status.blocked
    bench.error = None
    assert bench.agent.turn() <= 10 * (1 + JITTER)
    assert bench.agent.status.blocked == ""


def test_an_outage_does_not_make_a_fleet_ask_more_often_than_it_was_told(bench: AgentBench) -> None:
    bench.next_sync_s = 3600.0
    bench.agent.turn()
    bench.error = FleetUnreachableError("Sync", "down")
    assert statistics.mean(bench.agent.turn() for _ in range(200)) == pytest.approx(3600, rel=0.15)


def test_a_record_begun_anew_outlives_the_one_that_the_server_remembers(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    """A wrong clock began the life before: without this, reports would be taken for old ones for ten years."""
    bench.incarnation = 5000
    bench.agent.turn()
    assert bench.device.record.current.incarnation == 5001
    bench.incarnation = 1 << 63
    bench.assign(targets[0], 1)
    bench.agent.turn()
    assert bench.device.record.current.incarnation == 5001
    assert {report.incarnation for report in bench.requests[-1].reports} == {5001}


def test_a_full_disk_blocks_is_shown_and_heals(bench: AgentBench, targets: list[ReleaseTarget], monkeypatch: pytest.MonkeyPatch) -> None:
    bench.assign(targets[0], 1)
    bench.agent.turn()
    with monkeypatch.context() as patch:
        patch.setattr("workers.edge.folder.write_atomic", full)
        bench.assign(targets[1], 2)
        for _ in range(3):
            bench.agent.turn()
        assert "No space left" in bench.agent.status.blocked
        assert bench.device.serving.predict(["x"]).slot.digest == targets[0].digest
    bench.agent.turn()
    assert bench.device.serving.predict(["x"]).slot.digest == targets[1].digest
    assert bench.agent.status.blocked == ""


def test_with_a_full_disk_a_broken_incumbent_still_gives_way(
    bench: AgentBench,
    targets: list[ReleaseTarget],
    fleet: tuple[Trust, list[ReleaseTarget]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for generation, target in enumerate(targets, 1):
        bench.assign(target, generation)
        bench.agent.turn()
    (tmp_path / "device" / "slots" / targets[1].digest / "weights.bin").write_bytes(b"rot")
    monkeypatch.setattr("workers.edge.folder.write_atomic", full)
    again = AgentBench(tmp_path / "device", bench.fleet)
    assert again.device.serving.predict(["x"]).slot.digest == targets[0].digest


def full(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_revoked_device_goes_on_answering(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.assign(targets[0], 1)
    bench.agent.turn()
    bench.error = FleetRefusedError("Sync", "PERMISSION_DENIED", "revoked")
    bench.agent.turn()
    assert bench.device.serving.predict(["x"]).slot.digest == targets[0].digest
    assert bench.registry.get_sample_value("kdpipe_edge_syncs_total", {"outcome": "refused"}) == 1


def test_an_assignment_for_another_device_changes_nothing(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.assign(targets[0], 1, device="d-2")
    bench.agent.turn()
    assert bench.device.record.current.state is State.IDLE
    assert "d-2" in bench.agent.status.blocked


def test_a_replayed_older_assignment_changes_nothing(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.assign(targets[0], 1)
    old = bench.assignment
    bench.agent.turn()
    bench.assign(targets[1], 2)
    bench.agent.turn()
    bench.assignment = old
    bench.agent.turn()
    assert bench.device.serving.predict(["x"]).slot.digest == targets[1].digest
    assert "generation 1" in bench.agent.status.blocked


def test_a_download_that_is_cut_goes_on_at_the_next_turn(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.assign(targets[0], 1)
    bench.device.cut_after_bytes = 1024
    for _ in range(5):
        bench.agent.turn()
    assert bench.device.record.current.state is State.CONFIRMED


def test_a_clock_that_is_far_behind_is_shown_and_stops_nothing(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.wall = 0.0
    bench.assign(targets[0], 1)
    bench.agent.turn()
    assert bench.device.record.current.state is State.CONFIRMED
    bench.agent.turn()
    assert bench.requests[-1].clock_wrong
    bench.wall = NOW.timestamp()
    bench.agent.turn()
    assert not bench.requests[-1].clock_wrong


def test_a_clock_that_is_far_behind_does_not_bring_expired_metadata_back(
    bench: AgentBench, targets: list[ReleaseTarget], tmp_path: Path
) -> None:
    """The device has seen a newer signed time: metadata that expired before it stays expired."""
    bench.assign(targets[0], 1, issued=NOW + timedelta(days=10))
    bench.agent.turn()
    assert bench.device.record.current.state is State.CHECK
    bench.wall = 0.0
    bench.agent.turn()
    assert bench.device.record.current.state is State.CHECK
    assert "Expired" in bench.agent.status.blocked


def test_a_clock_that_is_far_ahead_blocks_installs_keeps_answering_and_heals(bench: AgentBench, targets: list[ReleaseTarget]) -> None:
    bench.assign(targets[0], 1, valid_days=20_000)
    bench.agent.turn()
    bench.wall = NOW.timestamp() + 3650 * 86_400
    bench.assign(targets[1], 2, valid_days=20_000)
    bench.agent.turn()
    assert bench.device.record.current.state is State.CHECK
    assert bench.device.serving.predict(["x"]).slot.digest == targets[0].digest
    assert bench.agent.status.clock_wrong
    bench.wall = NOW.timestamp()
    bench.agent.turn()
    assert bench.device.serving.predict(["x"]).slot.digest == targets[1].digest
    assert not bench.agent.status.clock_wrong


@pytest.fixture
def rekeyed(tmp_path: Path) -> tuple[RunFolder, Trust, ReleaseTarget]:
    """A repository of its own, whose keys a test may change."""
    folder = RunFolder(tmp_path / "own")
    create_repository(folder.keys, folder.releases, now=NOW)
    trust = Trust(folder.keys, folder.releases)
    return folder, trust, trust.publish(text_bundle(tmp_path / "own-bundles"))


def test_a_far_future_signed_with_stolen_online_keys_blocks_installs_until_those_are_replaced(
    rekeyed: tuple[RunFolder, Trust, ReleaseTarget], tmp_path: Path
) -> None:
    folder, trust, target = rekeyed
    bench = AgentBench(tmp_path / "device-2", trust)
    bench.assign(target, 1, issued=NOW + timedelta(days=3650))
    bench.agent.turn()
    bench.assign(target, 2)
    bench.agent.turn()
    assert bench.device.record.current.state is State.CHECK
    assert "xpired" in bench.agent.status.blocked
    rekey(folder, ("snapshot", "timestamp", "assignment"), brought=(), passphrases=Passphrases(Unlock()), now=NOW)
    bench.assign(target, 2)
    for _ in range(2):
        bench.agent.turn()
    assert bench.device.record.current.state is State.CONFIRMED
    assert bench.device.record.current.signed_unix_s == int(NOW.timestamp())


def test_the_highest_generation_signed_with_a_stolen_key_holds_a_device_until_that_is_replaced(
    rekeyed: tuple[RunFolder, Trust, ReleaseTarget], tmp_path: Path
) -> None:
    folder, trust, target = rekeyed
    bench = AgentBench(tmp_path / "device-2", trust)
    bench.device.trust.refresh(NOW)
    bench.assign(replace(target, path="releases/none-000001.kdpb"), MAX_GENERATION)
    bench.agent.turn()
    bench.assign(target, 2)
    bench.agent.turn()
    assert "above" in bench.agent.status.blocked
    rekey(folder, ("assignment",), brought=(), passphrases=Passphrases(Unlock()), now=NOW)
    bench.assign(target, 2)
    bench.agent.turn()
    assert (bench.device.record.current.state, bench.device.record.current.generation) == (State.CONFIRMED, 2)


def test_a_release_that_keeps_dying_after_it_was_confirmed_gives_way_to_the_one_before(
    bench: AgentBench, targets: list[ReleaseTarget]
) -> None:
    for generation, target in enumerate(targets, 1):
        bench.assign(target, generation)
        bench.agent.turn()
    bench.device.models.deadly[targets[1].digest] = 0
    for _ in range(DEATHS_ALLOWED):
        with pytest.raises(Exception, match="told to"):
            bench.device.serving.predict(["x"])
    bench.agent.turn()
    assert bench.device.serving.predict(["x"]).slot.digest == targets[0].digest
    assert bench.states()[-1] == "ROLLED_BACK"


def test_a_corrupt_incumbent_is_found_at_start_and_installed_again(
    bench: AgentBench, targets: list[ReleaseTarget], fleet: tuple[Trust, list[ReleaseTarget]], tmp_path: Path
) -> None:
    bench.assign(targets[0], 1)
    bench.agent.turn()
    weights = tmp_path / "device" / "slots" / targets[0].digest / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"~")
    again = AgentBench(tmp_path / "device", fleet[0])
    with pytest.raises(NoModelError):
        again.device.serving.predict(["x"])
    again.assign(targets[0], 1)
    again.agent.turn()
    assert again.device.serving.predict(["x"]).slot.digest == targets[0].digest


def test_the_certificate_is_looked_at_each_turn(bench: AgentBench) -> None:
    bench.agent.turn()
    bench.agent.turn()
    assert bench.renewals == 2


def test_an_incumbent_whose_process_dies_while_the_machine_starts_is_tried_again(
    bench: AgentBench, targets: list[ReleaseTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    for generation, target in enumerate(targets, 1):
        bench.assign(target, generation)
        bench.agent.turn()
    serve, failures = bench.device.serving.serve, [2]

    def short_of_memory(slot: Slot, **_: object) -> None:
        if failures[0] > 0:
            failures[0] -= 1
            raise ModelDiedError(slot.digest, "killed")
        serve(slot)

    monkeypatch.setattr(bench.device.serving, "serve", short_of_memory)
    bench.agent.boot()
    assert bench.device.serving.predict(["x"]).slot.digest == targets[1].digest
    failures[0] = BOOT_TRIES
    bench.agent.boot()
    assert bench.device.serving.predict(["x"]).slot.digest == targets[0].digest
