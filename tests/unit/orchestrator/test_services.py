"""The orchestrator over real gRPC and real certificates: what it does for devices and operators."""

import hashlib
import threading

import pytest

from pipeline.rollout.rollout import RolloutState
from tests.kit.bundles import target_of, text_bundle
from tests.kit.orchestrators import RunningOrchestrator
from tests.kit.wire_devices import SimulatedDevice
from workers.orchestrator.pki import utc


def test_three_devices_one_canary_then_two_are_confirmed(orchestrator: RunningOrchestrator) -> None:
    devices = orchestrator.devices(3)
    release = orchestrator.release()
    orchestrator.roll_out(release, waves=(0.34, 1.0), soak_s=0.2)
    (canary,) = orchestrator.offered(*devices, digest=release.digest)
    canary.confirm()
    rest = [device for device in devices if device is not canary]
    orchestrator.wait_for(lambda: len(orchestrator.offered(*rest, digest=release.digest)) == 2)
    for device in rest:
        device.confirm()
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").has_ended)
    seen = orchestrator.operator.get_rollout("r1")
    assert (seen.state, seen.confirmed, seen.devices) == (RolloutState.COMPLETED, 3, 3)
    assert {device.running_digest for device in orchestrator.operator.get_fleet().devices} == {release.digest}


def test_a_failed_canary_spares_the_others(orchestrator: RunningOrchestrator) -> None:
    devices = orchestrator.devices(3)
    release = orchestrator.release()
    orchestrator.roll_out(release, waves=(0.34, 1.0))
    (canary,) = orchestrator.offered(*devices, digest=release.digest)
    canary.sync(canary.report("FAILED", code="golden_mismatch"))
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").state is RolloutState.HALTED)
    assert "golden_mismatch" in orchestrator.operator.get_rollout("r1").reason
    assert [device.sync().assignment for device in devices if device is not canary] == [b"", b""]


def test_a_bundle_arrives_whole_and_from_any_offset(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    release = shared.release()
    whole = b"".join(device.fetch(release.digest))
    assert hashlib.sha256(whole).hexdigest() == release.digest
    assert b"".join(device.fetch(release.digest, offset=1000)) == whole[1000:]
    assert list(device.fetch(release.digest, offset=len(whole))) == []


def test_chunks_are_bounded(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    digest = hashlib.sha256(bytes(600_000)).hexdigest()
    (shared.trust.repository / "bundles" / digest).write_bytes(bytes(600_000))
    assert [len(chunk) for chunk in device.fetch(digest)] == [262_144, 262_144, 75_712]


def test_metadata_is_served_as_the_repository_holds_it(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    assert device.metadata("1.root.json") == shared.trust.root()


def test_calls_come_sooner_while_a_rollout_moves(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    assert device.next_sync_s == 0.1
    orchestrator.roll_out(orchestrator.release())
    device.sync()
    assert device.next_sync_s == 0.05


def test_publishing_twice_changes_nothing(orchestrator: RunningOrchestrator) -> None:
    bundle = text_bundle(orchestrator.folder / "b")
    metadata = orchestrator.trust.signer().add(target_of(bundle), now=utc(orchestrator.clock()))
    first = orchestrator.operator.publish(metadata, bundle.path)
    assert orchestrator.operator.publish(metadata, bundle.path) == first
    assert orchestrator.operator.publish(metadata) == first


def test_pages_of_a_fleet_hold_every_device_once(orchestrator: RunningOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.orchestrator.operations.PAGE", 2)
    devices = orchestrator.devices(5)
    seen = [device.device_id for device in orchestrator.operator.get_fleet().devices]
    assert seen == sorted(device.device_id for device in devices)


def test_reports_of_concurrent_calls_are_each_taken_once(shared: RunningOrchestrator) -> None:
    devices = shared.devices(8)

    def talk(device: SimulatedDevice) -> None:
        for _ in range(10):
            report = device.report("CHECK")
            device.sync(report)
            device.sync(report)

    threads = [threading.Thread(target=talk, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {device.sync().acknowledged_sequence for device in devices} == {10}


def test_what_was_acknowledged_survives_a_restart(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    release = orchestrator.release()
    orchestrator.roll_out(release, soak_s=30.0)
    orchestrator.offered(device, digest=release.digest)
    device.confirm()
    orchestrator.restart()
    answer = device.sync()
    assert (answer.acknowledged_incarnation, answer.acknowledged_sequence) == (1, 2)
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").confirmed == 1)
