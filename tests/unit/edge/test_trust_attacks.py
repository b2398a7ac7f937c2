"""The attacks of python-tuf's list that need more than one forged answer: root chains, stolen online keys, time, floods.

Replay, rollback, mix and match and arbitrary metadata are in `test_trust`; bundles in `test_install` and `test_download`; rotation and
fast-forward in `tests/unit/releases/test_rotation`. Extraneous dependencies do not exist here: a release names no other.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, Root, Snapshot, Targets, Timestamp

from pipeline.releases.assignment import MAX_GENERATION, Assignment, AssignmentRefusedError, sign_assignment, verify_assignment
from pipeline.releases.keys import load_key
from pipeline.releases.repository import parse_metadata, sign_metadata
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout import device as machine
from pipeline.rollout import heard
from pipeline.rollout.device import State
from tests.kit.bundles import NOW, Trust, text_bundle
from tests.kit.devices import Device
from tests.kit.fleet_server import FakeFleet
from workers.edge import fleet_client
from workers.edge.enrol import enrol
from workers.edge.fleet_client import EnrolmentClient, FleetClient, FleetUnreachableError
from workers.edge.trust import MetadataRefusedError, MetadataUnreachableError
from workers.edge.trust import Trust as DeviceTrust

ONLINE = ("snapshot", "timestamp", "assignment")


@pytest.fixture
def fleet(tmp_path: Path) -> Trust:
    trust = Trust.make(tmp_path / "fleet")
    for release, floor in ((1, 0), (2, 2)):
        trust.publish(text_bundle(tmp_path / "bundles", release=release, seed=release), release=release, security_floor=floor)
    return trust


@pytest.fixture
def device(fleet: Trust, tmp_path: Path) -> Device:
    return Device(tmp_path / "device", fleet)


def target(fleet: Trust, release: int) -> ReleaseTarget:
    return fleet.online().target(f"releases/small-{release:06d}.kdpb")


def write(fleet: Trust, name: str, data: bytes) -> None:
    (fleet.repository / "metadata" / name).write_bytes(data)


def root_of(fleet: Trust, version: int) -> Root:
    """The first root, under another version."""
    root = parse_metadata((fleet.repository / "metadata" / "1.root.json").read_bytes(), Root, name="root").signed
    root.version = version
    return root


def root_signers(fleet: Trust, *numbers: int) -> list[CryptoSigner]:
    return [load_key(fleet.keys / "offline" / f"root-{number}.pem") for number in numbers]  # type: ignore[misc]


# Wrong root chains.


def test_a_root_that_skips_a_version_is_refused(fleet: Trust, device: Device) -> None:
    write(fleet, "2.root.json", sign_metadata(root_of(fleet, 3), *root_signers(fleet, 1, 2)))
    with pytest.raises(MetadataRefusedError, match="version"):
        device.trust.refresh(NOW)


def test_an_older_root_in_the_place_of_the_next_is_refused(fleet: Trust, device: Device) -> None:
    write(fleet, "2.root.json", sign_metadata(root_of(fleet, 1), *root_signers(fleet, 1, 2)))
    with pytest.raises(MetadataRefusedError, match="version"):
        device.trust.refresh(NOW)


def test_a_root_signed_by_its_own_new_keys_alone_is_refused(fleet: Trust, device: Device) -> None:
    thieves = [CryptoSigner.generate_ed25519() for _ in range(2)]
    root = root_of(fleet, 2)
    for keyid in list(root.roles["root"].keyids):
        root.revoke_key(keyid, "root")
    for thief in thieves:
        root.add_key(thief.public_key, "root")
    write(fleet, "2.root.json", sign_metadata(root, *thieves))
    with pytest.raises(MetadataRefusedError, match="root"):
        device.trust.refresh(NOW)
    assert device.trust.root_version == 1


def test_a_root_signed_twice_by_one_key_is_refused(fleet: Trust, device: Device) -> None:
    write(fleet, "2.root.json", sign_metadata(root_of(fleet, 2), *root_signers(fleet, 1, 1)))
    with pytest.raises(MetadataRefusedError, match="root"):
        device.trust.refresh(NOW)


def test_a_root_by_the_old_keys_that_its_own_keys_did_not_sign_is_refused(fleet: Trust, device: Device) -> None:
    root = root_of(fleet, 2)
    for keyid in list(root.roles["root"].keyids)[1:]:
        root.revoke_key(keyid, "root")
    for _ in range(2):
        root.add_key(CryptoSigner.generate_ed25519().public_key, "root")
    write(fleet, "2.root.json", sign_metadata(root, *root_signers(fleet, 1, 2, 3)))
    with pytest.raises(MetadataRefusedError, match="root"):
        device.trust.refresh(NOW)


# Freeze.


def test_a_frozen_repository_stops_installs_when_its_timestamp_expires_and_never_the_running_model(fleet: Trust, device: Device) -> None:
    device.install(target(fleet, 1), 1)
    frozen = (fleet.repository / "metadata" / "timestamp.json").read_bytes()
    fleet.online().resign_timestamp(now=NOW + timedelta(days=3))
    device.rewrite_metadata = lambda name, data: frozen if name == "timestamp.json" else data
    device.later(timedelta(days=1))
    device.trust.refresh(device.now)
    device.later(timedelta(days=2))
    with pytest.raises(MetadataRefusedError) as refused:
        device.trust.refresh(device.now)
    assert refused.value.by_clock
    assert device.serving.predict(["x"]).slot.digest == target(fleet, 1).digest


# Stolen online keys.


class Thief:
    """Holds snapshot, timestamp and assignment keys, and the network; signs whatever he likes with them."""

    def __init__(self, fleet: Trust) -> None:
        self.fleet = fleet
        self.keys = {name: load_key(fleet.keys / "online" / f"{name}.pem") for name in ONLINE}

    def serve(self, releases: Callable[[Targets], None]) -> None:
        """Put changed release metadata into the repository, as well signed as he can."""
        online = self.fleet.online()
        version = online.snapshot_version
        snapshot = parse_metadata(online.metadata(f"{version}.snapshot.json"), Snapshot, name="s").signed
        signed = parse_metadata(online.metadata(f"{snapshot.meta['releases.json'].version}.releases.json"), Targets, name="r").signed
        releases(signed)
        signed.version += 1
        snapshot.version += 1
        snapshot.meta["releases.json"] = MetaFile(signed.version)
        timestamp = parse_metadata(online.metadata("timestamp.json"), Timestamp, name="t").signed
        timestamp.version += 1
        timestamp.snapshot_meta = MetaFile(snapshot.version)
        write(self.fleet, f"{signed.version}.releases.json", sign_metadata(signed, *self.keys.values()))
        write(self.fleet, f"{snapshot.version}.snapshot.json", sign_metadata(snapshot, self.keys["snapshot"]))
        write(self.fleet, "timestamp.json", sign_metadata(timestamp, self.keys["timestamp"]))


@pytest.fixture
def thief(fleet: Trust) -> Thief:
    return Thief(fleet)


def test_stolen_online_keys_may_choose_any_signed_release(fleet: Trust, device: Device) -> None:
    assert device.install(target(fleet, 1), 1).state is State.CONFIRMED


def test_stolen_online_keys_never_choose_below_the_floor(fleet: Trust, device: Device) -> None:
    old, new = target(fleet, 1), target(fleet, 2)
    device.install(new, 1)
    record = device.install(old, 2)
    assert (record.state, record.code) == (State.FAILED, "below_security_floor")
    assert device.serving.predict(["x"]).slot.digest == new.digest


def test_stolen_online_keys_cannot_lower_a_floor(fleet: Trust, device: Device, thief: Thief) -> None:
    device.install(target(fleet, 2), 1)
    old = target(fleet, 1)
    thief.serve(lambda signed: signed.targets[old.path].custom.update(release=9))
    device.assign(old, 2)
    with pytest.raises(MetadataRefusedError, match="releases was signed by 0/1"):
        device.installer.advance()
    assert device.record.current.floors == {"small": 2}


def test_stolen_online_keys_cannot_sign_a_new_release(fleet: Trust, device: Device, thief: Thief, tmp_path: Path) -> None:
    evil = replace(target(fleet, 2), path="releases/small-000003.kdpb", release=3, security_floor=3)
    thief.serve(lambda signed: signed.targets.update({evil.path: evil.to_tuf()}))
    device.assign(evil, 1)
    with pytest.raises(MetadataRefusedError, match="releases was signed by 0/1"):
        device.installer.advance()


def test_a_stolen_assignment_key_cannot_give_a_release_other_bytes(fleet: Trust, device: Device) -> None:
    record = device.install(replace(target(fleet, 1), digest=target(fleet, 2).digest), 1)
    assert (record.state, record.code) == (State.FAILED, "digest_not_signed")


def test_a_later_release_with_a_lower_floor_does_not_lower_the_devices(fleet: Trust, device: Device, tmp_path: Path) -> None:
    device.install(target(fleet, 2), 1)
    third = fleet.publish(text_bundle(tmp_path / "b", release=3, seed=3), release=3, security_floor=0)
    assert device.install(third, 2).floors == {"small": 2}
    assert device.install(target(fleet, 1), 3).code == "below_security_floor"


def test_an_assignment_beyond_the_highest_generation_is_refused(fleet: Trust, thief: Thief) -> None:
    one = Assignment(device="d", target="t", digest="a" * 64, generation=MAX_GENERATION + 1, issued=NOW, expires=NOW + timedelta(1))
    keys = {thief.keys["assignment"].public_key.keyid: thief.keys["assignment"].public_key}
    with pytest.raises(AssignmentRefusedError, match="wrong types"):
        verify_assignment(sign_assignment(one, thief.keys["assignment"]), keys, device="d", now=NOW)


def test_a_generation_is_durable_before_anything_is_done_about_it(fleet: Trust, device: Device) -> None:
    """So an older assignment that is replayed after a crash finds it there."""
    device.assign(target(fleet, 2), 7)
    again = Device(device.folder.path, fleet)
    assert again.record.current.generation == 7
    with pytest.raises(machine.AssignmentRolledBackError):
        again.assign(target(fleet, 1), 6)


# Time.


@pytest.mark.parametrize("years", [-10, 10])
def test_metadata_in_force_is_judged_by_trusted_time_whatever_the_wall_clock_says(fleet: Trust, device: Device, years: int) -> None:
    wall = NOW + timedelta(days=365 * years)
    if years > 0:
        with pytest.raises(MetadataRefusedError):
            device.trust.refresh(wall)
    else:
        device.trust.refresh(max(wall, NOW))
    assert device.trust.refresh(NOW) == int(NOW.timestamp())


def test_a_signed_time_is_forgotten_only_for_a_newer_root() -> None:
    record = heard.learn_time(machine.DeviceRecord(incarnation=1), 900, 3)
    assert heard.learn_time(record, 100, 3).signed_unix_s == 900
    assert heard.learn_time(record, 100, 2).signed_unix_s == 900
    assert heard.learn_time(record, 100, 4).signed_unix_s == 100


# Rot, floods and slowness.


@pytest.mark.parametrize("name", ["root.json", "targets.json", "timestamp.json", "snapshot.json", "releases.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 100, b" " * 5_000_001], ids=["empty", "torn", "garbage", "huge"])
def test_stored_metadata_that_rotted_is_fetched_anew(fleet: Trust, device: Device, name: str, content: bytes) -> None:
    device.trust.refresh(NOW)
    device.trust.release("releases/small-000001.kdpb")
    stored = device.folder.tuf / name
    stored.unlink()
    stored.write_bytes(content)
    again = DeviceTrust(device.folder.tuf, root=fleet.root, fetch=device._metadata)
    again.keys()
    again.refresh(NOW)
    assert again.release("releases/small-000001.kdpb") is not None
    assert again.keys()
    assert again.root_version == 1


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json", "snapshot.json", "targets.json", "releases.json"])
def test_endless_metadata_of_every_role_is_cut(fleet: Trust, device: Device, name: str) -> None:
    write(fleet, "2.root.json", b"")
    device.rewrite_metadata = lambda asked, data: b" " * 6_000_000 if asked.endswith(name) else None if asked == "2.root.json" else data

    def look() -> None:
        device.trust.refresh(NOW)
        device.trust.release("releases/small-000001.kdpb")

    with pytest.raises((MetadataUnreachableError, MetadataRefusedError)):
        look()


def test_a_chain_of_roots_without_end_is_followed_in_bounded_steps(fleet: Trust, device: Device) -> None:
    """Each one is well signed; a refresh takes at most `UpdaterConfig.max_root_rotations` of them and the next goes on."""
    asked: list[str] = []

    def roots(name: str, data: bytes) -> bytes:
        asked.append(name)
        return data

    for version in range(2, 40):
        write(fleet, f"{version}.root.json", sign_metadata(root_of(fleet, version), *root_signers(fleet, 1, 2)))
    device.rewrite_metadata = roots
    device.trust.refresh(NOW)
    assert len([name for name in asked if name.endswith("root.json")]) <= 257
    assert device.trust.root_version == 39


def test_metadata_and_bundles_that_come_too_slowly_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def slow(data: bytes) -> bytes:
        released.wait(30)
        return data

    with FakeFleet(tmp_path, now=datetime.now(UTC)) as fleet:
        bundle = text_bundle(tmp_path / "b")
        fleet.trust.publish(bundle, now=fleet.now)
        enrolment = fleet.enrolment_file(tmp_path / "e.json")
        identity = enrol(tmp_path / "identity", enrolment, lambda f: EnrolmentClient(f.endpoint_enrolment, f.ca_pem), hardware_class="test")
        known = identity.fleet
        client = FleetClient(known.endpoint_fleet, ca_pem=known.ca_pem, key_pem=identity.key_pem, certificate_pem=identity.certificate_pem)
        trust = DeviceTrust(tmp_path / "tuf", root=known.root.encode, fetch=client.metadata)
        trust.refresh(fleet.now)
        monkeypatch.setattr(fleet_client, "CALL_TIMEOUT_S", 0.3)
        monkeypatch.setattr(fleet_client, "FETCH_TIMEOUT_S", 0.3)
        fleet.rewrite_metadata, fleet.rewrite_fetch = (lambda name, data: slow(data)), slow
        try:
            with pytest.raises(MetadataUnreachableError, match="DEADLINE"):
                trust.refresh(fleet.now)
            with pytest.raises(FleetUnreachableError, match="DEADLINE"):
                list(client.fetch(bundle.sha256, 0))
        finally:
            released.set()
            client.close()
