"""New keys for roles, as devices see them: nobody enrols anew, and who has an old key is out."""

import fcntl
import os
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from pipeline.errors import FolderBusyError, KdpipeError
from pipeline.releases import rotation, sealing
from pipeline.releases.assignment import Assignment, AssignmentRefusedError, sign_assignment, verify_assignment
from pipeline.releases.journal import JOURNAL, JournalBrokenError, commit, finish
from pipeline.releases.keys import KeyLockedError, KeyNotListedError, Unlock, load_key
from pipeline.releases.online import OnlineRepository
from pipeline.releases.published import read_published
from pipeline.releases.repository import (
    MetadataInvalidError,
    create_repository,
    parse_metadata,
    sign_metadata,
    sign_snapshot,
    sign_timestamp,
)
from pipeline.releases.rotation import ROLES, RotationUnclearError, SignaturesMissingError
from pipeline.rollout import device as machine
from pipeline.rollout import heard
from pipeline.rollout.device import Wanted
from pipeline.rollout.device_file import from_json, to_json
from tests.kit.bundles import NOW, Trust, target_of, text_bundle
from tests.kit.devices import Device
from tests.kit.kill_switch import KillSwitch
from workers.driver import rekeying
from workers.driver.folder import Holder, RunFolder
from workers.driver.passphrases import Passphrases
from workers.driver.rekeying import Rekeyed, rekey
from workers.edge.trust import MetadataRefusedError, MetadataUnreachableError

PATH = "releases/small-000001.kdpb"
ONE_ROLE_AT_A_TIME = [role for role in ROLES if role != "root"]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_COST", 16)


class Repository:
    """A run's folder with a repository, its offline keys moved away to `vault`."""

    def __init__(self, root: Path) -> None:
        self.folder, self.vault = RunFolder(root / "run"), root / "vault"
        create_repository(self.folder.keys, self.folder.releases, now=NOW)
        shutil.move(self.folder.keys / "offline", self.vault)
        self.trust = Trust(self.folder.keys, self.folder.releases)

    def brought(self, *names: str) -> list[Path]:
        return [self.vault / f"{name}.pem" for name in names or ("root-1", "root-2", "targets")]

    def rotate(self, *roles: str, brought: Sequence[Path] | None = None, unlock: Unlock | None = None, **options: Any) -> Rekeyed:
        brought = self.brought() if brought is None else brought
        return rekey(self.folder, roles, brought=brought, passphrases=Passphrases(unlock or Unlock()), **{"now": NOW, **options})

    def first_root_key(self) -> str:
        return load_key(self.vault / "root-1.pem").public_key.keyid

    def write(self, name: str, data: bytes) -> None:
        (self.folder.releases / "metadata" / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        return (self.folder.releases / "metadata" / name).read_bytes()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path)
    made.trust.publish(text_bundle(tmp_path / "bundles"))
    return made


@pytest.fixture
def device(repository: Repository, tmp_path: Path) -> Device:
    """Enrolled, and in touch before the change."""
    made = Device(tmp_path / "device", repository.trust)
    made.trust.refresh(NOW)
    return made


def sees(device: Device, path: str = PATH) -> bool:
    device.trust.refresh(device.now)
    return device.trust.release(path) is not None


@pytest.mark.parametrize("role", ONE_ROLE_AT_A_TIME)
def test_devices_follow_a_role_to_its_new_key(repository: Repository, device: Device, role: str, tmp_path: Path) -> None:
    done = repository.rotate(role)
    assert set(done.keyids) == {role}
    assert sees(device)
    repository.trust.publish(text_bundle(tmp_path / "b", release=2), release=2)
    assert sees(device, "releases/small-000002.kdpb")
    assert sees(Device(tmp_path / "newcomer", repository.trust), "releases/small-000002.kdpb")


def test_root_keys_are_replaced_one_by_one_until_none_of_the_first_is_left(repository: Repository, device: Device) -> None:
    brought = repository.brought("root-1", "root-2", "root-3")
    for number in (1, 2, 3):
        old = load_key(repository.vault / f"root-{number}.pem").public_key.keyid
        done = repository.rotate("root", brought=brought, replace=old[:8])
        brought += list(done.files)
    root = read_published(repository.folder.releases).root.signed
    assert root.version == 4
    assert not {load_key(path).public_key.keyid for path in repository.vault.glob("root-*.pem")} & set(root.roles["root"].keyids)
    assert sees(device)
    shutil.rmtree(repository.folder.keys / "offline")
    with pytest.raises(SignaturesMissingError, match="0 of its keys"):
        repository.rotate("timestamp", brought=repository.brought("root-1", "root-2", "root-3"))


def test_everything_at_once_is_one_new_root(repository: Repository, device: Device) -> None:
    done = repository.rotate(*ROLES, replace=repository.first_root_key())
    assert [name for name in done.metadata if name.endswith("root.json")] == ["2.root.json"]
    assert sees(device)


def test_who_has_an_old_release_key_signs_nothing_more(repository: Repository, device: Device, tmp_path: Path) -> None:
    stolen = load_key(repository.folder.keys / "release" / "release.pem")
    repository.rotate("release")
    signed = parse_metadata(repository.read("3.releases.json"), Targets, name="r").signed
    signed.version += 1
    signed.targets["releases/evil-000001.kdpb"] = target_of(text_bundle(tmp_path / "evil", student="evil"), student="evil").to_tuf()
    forged = sign_metadata(signed, stolen)
    with pytest.raises(MetadataInvalidError, match="not signed by the release key"):
        repository.trust.online().publish(forged, None, now=NOW)
    device.rewrite_metadata = lambda name, data: forged if name == "3.releases.json" else data
    with pytest.raises(MetadataRefusedError):
        sees(device)


def test_who_has_an_old_assignment_key_assigns_nothing_more_once_the_device_looked(repository: Repository, device: Device) -> None:
    stolen = load_key(repository.folder.keys / "online" / "assignment.pem")
    repository.rotate("assignment")
    wanted = Assignment(device="d", target=PATH, digest="a" * 64, generation=9, issued=NOW, expires=NOW + timedelta(hours=1))
    forged = sign_assignment(wanted, stolen)
    verify_assignment(forged, device.trust.keys(), device="d", now=NOW)
    device.trust.refresh(NOW)
    with pytest.raises(AssignmentRefusedError, match="lists"):
        verify_assignment(forged, device.trust.keys(), device="d", now=NOW)
    new = sign_assignment(wanted, load_key(repository.folder.keys / "online" / "assignment.pem"))
    verify_assignment(new, device.trust.keys(), device="d", now=NOW)


def test_a_fast_forwarded_timestamp_and_snapshot_block_until_their_keys_are_replaced(repository: Repository, device: Device) -> None:
    thief = {name: load_key(repository.folder.keys / "online" / f"{name}.pem") for name in ("timestamp", "snapshot")}
    timestamp = parse_metadata(repository.read("timestamp.json"), Timestamp, name="t").signed
    snapshot = parse_metadata(repository.read(f"{timestamp.snapshot_meta.version}.snapshot.json"), Snapshot, name="s").signed
    high = 2**31
    timestamp.version = timestamp.snapshot_meta.version = snapshot.version = snapshot.meta["targets.json"].version = high
    forged = {
        "timestamp.json": sign_metadata(timestamp, thief["timestamp"]),
        f"{high}.snapshot.json": sign_metadata(snapshot, thief["snapshot"]),
    }
    repository.write(f"{high}.snapshot.json", b"")  # so that it is asked for
    device.rewrite_metadata = lambda name, data: forged.get(name, data)
    with pytest.raises(MetadataUnreachableError):  # no targets of that version were ever signed
        device.trust.refresh(NOW)
    device.rewrite_metadata = lambda name, data: data
    repository.trust.online().resign_timestamp(now=NOW)
    with pytest.raises(MetadataRefusedError, match="version"):
        device.trust.refresh(NOW)
    repository.rotate("timestamp")
    with pytest.raises(MetadataRefusedError):
        device.trust.refresh(NOW)
    repository.rotate("snapshot", "timestamp")
    assert sees(device)


def test_a_fast_forwarded_generation_blocks_until_the_assignment_key_is_replaced() -> None:
    wanted = Wanted(generation=2**62, target=PATH, digest="a" * 64)
    record = machine.assign(machine.DeviceRecord(incarnation=1), wanted, key="stolen", trusted={"stolen"})
    real = Wanted(generation=3, target=PATH, digest="b" * 64)
    with pytest.raises(machine.AssignmentRolledBackError):
        machine.assign(record, real, key="stolen", trusted={"stolen"})
    healed = machine.assign(from_json(to_json(record)), real, key="new", trusted={"new"})
    assert (healed.generation, healed.wanted, healed.generation_key) == (3, real, "new")
    with pytest.raises(machine.AssignmentRolledBackError):
        machine.assign(healed, Wanted(generation=2, target=PATH, digest="a" * 64), key="new", trusted={"new"})


def test_an_assignment_signed_anew_with_the_new_key_is_no_news() -> None:
    wanted = Wanted(generation=3, target=PATH, digest="a" * 64)
    record = machine.assign(machine.DeviceRecord(incarnation=1), wanted, key="old", trusted={"old"})
    again = machine.assign(record, wanted, key="new", trusted={"new"})
    assert (again.state, again.sequence, again.generation_key) == (record.state, record.sequence, "new")


@pytest.mark.parametrize("brought", [(), ("root-1",), ("root-1", "targets")])
def test_too_few_root_keys_change_nothing(repository: Repository, brought: tuple[str, ...]) -> None:
    before = sorted((repository.folder.releases / "metadata").iterdir())
    with pytest.raises(SignaturesMissingError, match=r"expected 2 of .*--key"):
        repository.rotate("timestamp", brought=[repository.vault / f"{name}.pem" for name in brought])
    assert sorted((repository.folder.releases / "metadata").iterdir()) == before
    assert not (repository.folder.keys / JOURNAL).exists()


def test_a_strangers_keys_do_not_count(repository: Repository, tmp_path: Path) -> None:
    stranger = Repository(tmp_path / "stranger")
    with pytest.raises(SignaturesMissingError, match="0 of its keys"):
        repository.rotate("timestamp", brought=stranger.brought())


def test_the_targets_key_is_missed_by_name(repository: Repository) -> None:
    with pytest.raises(SignaturesMissingError, match="targets metadata"):
        repository.rotate("release", brought=repository.brought("root-1", "root-2"))


@pytest.mark.parametrize("replace", ["", "zz"])
def test_a_root_key_to_replace_must_be_named(repository: Repository, replace: str) -> None:
    with pytest.raises(RotationUnclearError, match="--replace"):
        repository.rotate("root", replace=replace)


def test_an_expired_root_and_expired_targets_are_renewed_and_devices_come_back(repository: Repository, device: Device) -> None:
    device.later(timedelta(days=400))
    with pytest.raises(MetadataRefusedError) as refused:
        device.trust.refresh(device.now)
    assert refused.value.by_clock, "nothing that is signed says that it is so late"
    repository.trust.online().resign_timestamp(now=device.now)
    for role, renew in (("root", ("root",)), ("targets", ("targets",)), ("releases", ())):
        with pytest.raises(MetadataRefusedError, match=f"the fleet let it expire: .*{role}") as refused:
            sees(device)
        assert not refused.value.by_clock
        if renew:
            repository.rotate(renew=renew, now=device.now)
    repository.trust.online().publish(repository.trust.signer().renew(now=device.now), None, now=device.now)
    assert sees(device)
    assert read_published(repository.folder.releases).root.signed.version == 2


def test_a_timestamp_that_its_key_did_not_sign_does_not_say_that_the_clock_is_right(repository: Repository, device: Device) -> None:
    device.later(timedelta(days=400))
    forged = sign_timestamp(1, CryptoSigner.generate_ed25519(), version=9, now=device.now)
    device.rewrite_metadata = lambda name, data: forged if name == "timestamp.json" else data
    with pytest.raises(MetadataRefusedError) as refused:
        device.trust.refresh(device.now)
    assert refused.value.by_clock


def test_a_far_future_that_a_stolen_timestamp_key_signed_counts_until_a_new_root_comes(repository: Repository, device: Device) -> None:
    """Without the last step such a device would install nothing for ever."""
    record = heard.learn_time(device.record.current, int((NOW + timedelta(days=4000)).timestamp()), device.trust.root_version)
    later = NOW + timedelta(days=4000)
    with pytest.raises(MetadataRefusedError) as refused:
        device.trust.refresh(later)
    assert refused.value.by_clock
    assert record.signed_root == device.trust.root_version == 1
    repository.rotate("timestamp", "snapshot", "assignment")
    with pytest.raises(MetadataRefusedError):
        device.trust.refresh(later)  # the new root is in
    assert device.trust.root_version == 2 > record.signed_root
    signed_unix_s = device.trust.refresh(NOW)
    assert heard.learn_time(record, signed_unix_s, device.trust.root_version).signed_unix_s == int(NOW.timestamp())


def test_a_change_of_keys_killed_at_any_step_is_whole_or_not_begun(repository: Repository, tmp_path: Path) -> None:
    for step in range(1, 800, 5):  # `test_several_files_change_as_one` takes every step of what this stands on
        copy = tmp_path / str(step)
        shutil.copytree(repository.folder.root, copy)
        folder = RunFolder(copy)
        arguments: Any = {"brought": repository.brought(), "passphrases": Passphrases(Unlock()), "now": NOW}
        with KillSwitch(step) as switch:
            rekey(folder, ("timestamp", "release"), **arguments)
        finish(folder.keys, folder.releases)
        published = read_published(folder.releases)
        assert load_key(folder.keys / "online" / "timestamp.pem").public_key.keyid in published.root.signed.roles["timestamp"].keyids
        signer = Trust(folder.keys, folder.releases).signer()
        Trust(folder.keys, folder.releases).online().publish(signer.renew(now=NOW), None, now=NOW)
        shutil.rmtree(copy)
        if not switch.fired:
            assert step > 30
            return
    raise AssertionError("never ran through")


def test_several_files_change_as_one(tmp_path: Path) -> None:
    for step in range(1, 200):
        keys, repo = tmp_path / f"k{step}", tmp_path / f"r{step}"
        old = {keys / "a": b"1", keys / "gone": b"1", repo / "metadata" / "b": b"1"}
        for path, data in old.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with KillSwitch(step) as switch:
            commit(keys, repo, {"keys/a": b"2", "keys/gone": None, "metadata/b": b"2", "metadata/c": b"2"})
        finish(keys, repo)
        found = {path.name: path.read_bytes() for folder in (keys, repo / "metadata") for path in folder.iterdir() if path.name[0] != "."}
        assert found in ({"a": b"1", "gone": b"1", "b": b"1"}, {"a": b"2", "b": b"2", "c": b"2"})
        if not switch.fired:
            assert found["a"] == b"2"
            return
    raise AssertionError("never ran through")


def test_a_journal_of_another_version_or_with_a_strange_path_is_refused(repository: Repository) -> None:
    for text in (
        '{"version": 9}',
        "[",
        '{"version": 1, "files": [["keys/../../x", "YQ=="]]}',
        '{"version": 1, "files": [["etc/x", "YQ=="]]}',
    ):
        (repository.folder.keys / JOURNAL).write_text(text)
        with pytest.raises(JournalBrokenError):
            repository.rotate("timestamp")


def test_a_live_run_and_a_live_orchestrator_are_not_pulled_from_under(repository: Repository) -> None:
    with Holder(repository.folder), pytest.raises(FolderBusyError, match="kdpipe stop"):
        repository.rotate("timestamp")
    repository.folder.fleet.mkdir()
    with (repository.folder.fleet / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FolderBusyError, match="its orchestrator"):
            repository.rotate("timestamp")


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_an_orchestrator_elsewhere_signs_with_the_new_key_or_not_at_all(
    repository: Repository, device: Device, role: str, tmp_path: Path
) -> None:
    releases, keys = repository.folder.releases, repository.folder.keys / "online"
    live, stale = OnlineRepository(releases, keys), OnlineRepository(releases, shutil.copytree(keys, tmp_path / "old"))
    repository.rotate(role)
    before = repository.read("timestamp.json")
    for attempt in (lambda: stale.resign_timestamp(now=NOW), lambda: OnlineRepository(releases, tmp_path / "old")):
        with pytest.raises(KeyNotListedError, match=rf"old/{role}\.pem: .*`kdpipe keys rotate DIR {role}`"):
            attempt()
    assert repository.read("timestamp.json") == before
    live.resign_timestamp(now=NOW)
    assert sees(device)
    assert stale.targets().keys() == {PATH}, "it goes on serving"


def test_an_orchestrator_whose_assignment_key_does_not_count_does_not_start(repository: Repository) -> None:
    path = repository.folder.keys / "online" / "assignment.pem"
    old, live = load_key(path), repository.trust.online()
    live.check_assignments(old, path)
    repository.rotate("assignment")
    with pytest.raises(KeyNotListedError, match="does not list for assignment"):
        live.check_assignments(old, path)


def test_nobody_signs_while_keys_change(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(*given: Any, **options: Any) -> dict[str, bytes]:
        with (repository.folder.releases / "lock").open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return rotation.rotate(*given, **options)

    monkeypatch.setattr(rekeying, "rotate", held)
    repository.rotate("timestamp")


def test_an_old_online_key_signs_no_new_root(repository: Repository) -> None:
    key = repository.folder.keys / "online" / "timestamp.pem"
    old = key.read_bytes()
    repository.rotate("timestamp")
    key.write_bytes(old)
    with pytest.raises(SignaturesMissingError, match="timestamp metadata: 0 of its keys"):
        repository.rotate(renew=("root",))


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_what_an_old_key_signed_over_the_new_is_mended_by_new_keys(repository: Repository, device: Device, role: str) -> None:
    """An orchestrator of an earlier version did that, and then nothing opened the repository."""
    keys = {name: load_key(repository.folder.keys / "online" / f"{name}.pem") for name in ("timestamp", "snapshot")}
    repository.rotate(role)
    published = read_published(repository.folder.releases)
    version = published.snapshot.signed.version + (role == "snapshot")
    if role == "snapshot":
        repository.write(
            f"{version}.snapshot.json", sign_snapshot(published.snapshot.signed.meta, keys["snapshot"], version=version, now=NOW)
        )
    stamp = sign_timestamp(version, keys["timestamp"], version=published.timestamp.signed.version + 1, now=NOW)
    repository.write("timestamp.json", stamp)
    with pytest.raises(MetadataRefusedError):
        sees(device)
    with pytest.raises(MetadataInvalidError, match=f"{role}.*`kdpipe keys rotate DIR {role}`"):
        repository.trust.online()
    assert role in repository.rotate(role).mended
    assert sees(device)
    assert repository.trust.online().resign_timestamp(now=NOW)


def test_a_sealed_key_is_not_replaced_by_an_open_one_in_silence(tmp_path: Path) -> None:
    unlock = Unlock(environment={"KDPIPE_ONLINE_PASSPHRASE": "x"})
    folder = RunFolder(tmp_path / "sealed")
    create_repository(folder.keys, folder.releases, now=NOW, unlock=unlock)
    with pytest.raises(KeyLockedError, match="KDPIPE_ONLINE_PASSPHRASE"):
        rekey(folder, ("timestamp", "snapshot"), brought=(), passphrases=Passphrases(Unlock()), now=NOW)
    rekey(folder, ("timestamp",), brought=(), passphrases=Passphrases(unlock), now=NOW)
    load_key(folder.keys / "online" / "timestamp.pem", unlock)


def test_the_passphrase_of_a_brought_key_is_asked_for_where_the_environment_does_not_open_it(tmp_path: Path) -> None:
    unlock = Unlock(environment={"KDPIPE_OFFLINE_PASSPHRASE": "x"})
    folder, asked = RunFolder(tmp_path / "sealed"), list[Path]()
    create_repository(folder.keys, folder.releases, now=NOW, unlock=unlock)

    def ask(path: Path) -> str:
        asked.append(path)
        return "x"

    rekey(folder, ("timestamp",), brought=(), passphrases=Passphrases(Unlock(), ask=ask), now=NOW)
    assert [path.name for path in asked] == ["root-1.pem"], "what opens one is tried on the others first"


def test_a_root_that_skips_the_old_keys_is_no_end_of_the_chain(repository: Repository, tmp_path: Path) -> None:
    stranger = Repository(tmp_path / "stranger")
    root = parse_metadata(stranger.read("1.root.json"), Root, name="root").signed
    root.version = 2
    repository.write("2.root.json", sign_metadata(root, *(load_key(stranger.vault / f"root-{n}.pem") for n in (1, 2))))
    with pytest.raises(MetadataInvalidError, match=r"2\.root\.json"):
        read_published(repository.folder.releases)
    assert issubclass(MetadataInvalidError, KdpipeError)
