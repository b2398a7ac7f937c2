"""Two replicas on one database over real gRPC: what one is told, the other knows."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from pipeline.rollout.events import check_chain
from pipeline.rollout.rollout import RolloutState
from pipeline.rollout.steering import Action
from tests.kit.orchestrators import RunningOrchestrator, refused_with
from tests.kit.wire_devices import SimulatedDevice
from workers.orchestrator.leadership import Leadership
from workers.rpc import fleet_pb2, fleet_pb2_grpc

Pair = tuple[RunningOrchestrator, RunningOrchestrator]


@pytest.fixture(name="pair")
def _pair(tmp_path: Path) -> Iterator[Pair]:
    shared = {"database_url": f"sqlite:///{tmp_path / 'both.db'}", "ca_folder": tmp_path / "ca", "lease_s": 60.0}
    (tmp_path / "b").mkdir()
    with RunningOrchestrator(tmp_path / "a", **shared) as first:
        trust = {"repository": first.trust.repository, "keys": first.trust.keys / "online"}
        with RunningOrchestrator(tmp_path / "b", **shared, **trust) as second:
            yield first, second


def moved(device: SimulatedDevice, other: RunningOrchestrator) -> SimulatedDevice:
    """The same device, calling the other replica from now on."""
    device.close()
    device.endpoints = other.endpoints
    return device


def test_a_device_may_call_any_replica_and_a_rollout_goes_on(pair: Pair) -> None:
    first, second = pair
    here, there = first.devices(2)
    moved(there, second).sync()
    release = first.release()
    second.operator.create_rollout("r1", population="mail", target=release.path, waves=(1.0,), soak_s=0.0, deadline_s=60.0)
    second.operator.approve("r1")
    for device in (here, there):
        first.offered(device, digest=release.digest)
        device.confirm()
    first.wait_for(lambda: second.operator.get_rollout("r1").has_ended)
    assert second.operator.get_rollout("r1").confirmed == 2
    first.wait_for(lambda: first.operator.get_rollout("r1").has_ended)
    moved(here, second)
    assert here.sync().acknowledged_sequence == 2, "what one replica acknowledged, the other knows"


def test_an_operator_at_a_follower_writes_the_log_and_only_the_leader_moves_waves(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pair
    (device,) = leader.devices(1)
    release = leader.release()
    passes: list[str] = []
    turns = follower.orchestrator._turns
    monkeypatch.setattr(turns.engine, "tick", lambda session, *, now: passes.append("follower"))  # type: ignore[union-attr]
    follower.operator.create_rollout("r1", population="mail", target=release.path, waves=(1.0,), soak_s=0.0, deadline_s=60.0)
    assert follower.operator.approve("r1").state is RolloutState.APPROVED
    leader.offered(device, digest=release.digest)
    follower.wait_for(lambda: follower.operator.get_rollout("r1").offered == 1)
    assert follower.operator.control("r1", Action.PAUSE).paused
    assert follower.operator.control("r1", Action.ABORT_KEEP).state is RolloutState.ABORTED
    device.sync()
    assert not device.assignment, "what an action desires is assigned with it, whoever leads"
    assert passes == []
    check_chain("r1", leader.operator.events("r1"))
    leader.wait_for(lambda: leader.operator.get_rollout("r1").has_ended)


def test_the_leader_knows_how_devices_answer_that_call_another_replica(pair: Pair) -> None:
    leader, follower = pair
    (device,) = leader.devices(1)
    moved(device, follower)
    stats = fleet_pb2.ServingStats(answers=7, confidence_mean=0.75, latency_p50_ms=2.0)
    request = fleet_pb2.SyncRequest(hardware_class=device.hardware, running_digest="a" * 64, serving=stats)
    fleet_pb2_grpc.FleetStub(device.channel).Sync(request, timeout=10)
    for running in (follower, leader):
        turns = running.orchestrator._turns
        turns.writer.submit(turns._note).result(10)  # type: ignore[union-attr]
    (found,) = leader.operator.get_fleet().devices
    assert found.serving is not None
    assert found.serving.answers == 7


def test_clocks_that_differ_make_no_device_look_away(pair: Pair) -> None:
    leader, follower = pair
    leader.clock.ahead_s = 20.0
    (here,), (there,) = leader.devices(1), follower.devices(1)
    for running in (leader, follower, leader):
        turns = running.orchestrator._turns
        turns._noted = turns.writer.submit(turns._note).result(10)  # type: ignore[union-attr]
    for running, device in ((leader, there), (follower, here)):
        assert abs(running.clock() - running.orchestrator.roster.seen[device.device_id]) < 6.0


def test_a_device_revoked_at_one_replica_is_refused_at_the_other(pair: Pair) -> None:
    first, second = pair
    (device,) = first.devices(1)
    moved(device, second).sync()
    first.operator.revoke(device.device_id)

    def is_refused() -> bool:
        try:
            device.sync()
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.PERMISSION_DENIED
        return False

    second.wait_for(is_refused, timeout_s=5.0)


def test_one_of_two_leads_and_when_it_stops_the_other_does(pair: Pair) -> None:
    first, second = pair

    def leads(running: RunningOrchestrator) -> bool:
        turns = running.orchestrator._turns
        leadership: Leadership = turns.leadership  # type: ignore[union-attr]
        return leadership.leads

    assert (leads(first), leads(second)) == (True, False)
    first.stop()
    second.wait_for(lambda: leads(second), timeout_s=30.0)
    first.start()
    assert not leads(first)


def test_a_replica_that_no_longer_hears_from_its_database_answers_nobody(
    orchestrator: RunningOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device,) = orchestrator.devices(1)
    monkeypatch.setattr("workers.orchestrator.identity.OLD_S", -1.0)
    with refused_with(grpc.StatusCode.UNAVAILABLE, "last heard from its database"):
        device.sync()
