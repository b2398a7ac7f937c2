"""The repository on the signing and the serving side."""

import json
import os
import shutil
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.releases.keys import KeyMissingError, KeyUnsafeError, load_key
from pipeline.releases.manifest import BundleInvalidError
from pipeline.releases.online import BundleMissingError, OnlineRepository
from pipeline.releases.repository import MetadataInvalidError, create_repository
from pipeline.releases.signer import ReleaseExistsError
from pipeline.releases.target import TargetInvalidError
from tests.kit.bundles import NOW, Trust, target_of, text_bundle
from tests.kit.kill_switch import KillSwitch


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust.make(tmp_path)


def copied(trust: Trust, folder: Path) -> Trust:
    shutil.copytree(trust.keys.parent, folder)
    return Trust(folder / "keys", folder / "repository")


def test_private_keys_are_readable_by_their_owner_only(trust: Trust) -> None:
    pems = sorted(trust.keys.rglob("*.pem"))
    assert len(pems) == 8
    for pem in pems:
        assert stat.S_IMODE(pem.stat().st_mode) == 0o600
        assert stat.S_IMODE(pem.parent.stat().st_mode) == 0o700


def test_creation_says_where_to_move_the_root_keys_and_touches_nothing_the_second_time(trust: Trust) -> None:
    for pem in (trust.keys / "offline").iterdir():
        pem.unlink()
    again = create_repository(trust.keys, trust.repository, now=NOW + timedelta(days=1))
    assert not again.fresh
    assert list((trust.keys / "offline").iterdir()) == []
    assert "Move them to offline storage" in again.notice()


def test_creation_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path / "bundles")
    for step in range(1, 400):
        folder = tmp_path / str(step)
        with KillSwitch(step) as switch:
            Trust.make(folder)
        trust = Trust.make(folder)
        trust.publish(bundle)
        if not switch.fired:
            assert step > 20
            return
    raise AssertionError("never ran through")


def test_a_key_that_others_can_read_is_refused(trust: Trust) -> None:
    path = trust.keys / "release" / "release.pem"
    path.chmod(0o644)
    with pytest.raises(KeyUnsafeError, match="chmod 600"):
        load_key(path)
    with pytest.raises(KeyMissingError):
        load_key(trust.keys / "none.pem")


def test_publishing_killed_at_any_step_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path / "bundles")
    made = Trust.make(tmp_path / "made")
    for step in range(1, 200):
        trust = copied(made, tmp_path / str(step))
        metadata = trust.signer().add(target_of(bundle), now=NOW)
        upload = trust.online().upload_path("u1")
        upload.write_bytes(bundle.path.read_bytes())
        with KillSwitch(step) as switch:
            trust.online().publish(metadata, upload, now=NOW)
        online = trust.online()
        assert online.snapshot_version == (2 if online.targets() else 1)
        upload.write_bytes(bundle.path.read_bytes())
        online.publish(metadata, upload, now=NOW)
        assert online.target("releases/small-000001.kdpb").digest == bundle.sha256
        if not switch.fired:
            assert step > 10
            return
    raise AssertionError("never ran through")


def test_signing_killed_at_any_step_signs_the_same_release_again(tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path / "bundles")
    made = Trust.make(tmp_path / "made")
    for step in range(1, 50):
        trust = copied(made, tmp_path / str(step))
        with KillSwitch(step) as switch:
            trust.signer().add(target_of(bundle), now=NOW)
        data = trust.signer().add(target_of(bundle), now=NOW)
        assert json.loads(data)["signed"]["version"] == 2
        assert trust.signer().add(target_of(bundle), now=NOW) == data
        if not switch.fired:
            return
    raise AssertionError("never ran through")


def test_publishing_the_same_twice_changes_nothing(trust: Trust, tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path)
    trust.publish(bundle)
    version = trust.online().snapshot_version
    trust.publish(bundle)
    assert trust.online().snapshot_version == version


def test_unsigned_release_metadata_is_refused(trust: Trust, tmp_path: Path) -> None:
    tree = json.loads(trust.signer().add(target_of(text_bundle(tmp_path)), now=NOW))
    tree["signatures"] = []
    with pytest.raises(MetadataInvalidError, match="not signed by the release key"):
        trust.online().publish(json.dumps(tree).encode(), None, now=NOW)


def test_release_metadata_signed_by_an_arbitrary_key_is_refused(trust: Trust, tmp_path: Path) -> None:
    stranger = Trust.make(tmp_path / "stranger")
    data = stranger.signer().add(target_of(text_bundle(tmp_path)), now=NOW)
    with pytest.raises(MetadataInvalidError, match="not signed by the release key"):
        trust.online().publish(data, None, now=NOW)
    assert trust.online().targets() == {}


def test_online_keys_cannot_sign_a_release(trust: Trust, tmp_path: Path) -> None:
    shutil.copy2(trust.keys / "online" / "snapshot.pem", trust.keys / "release" / "release.pem")
    data = trust.signer().add(target_of(text_bundle(tmp_path)), now=NOW)
    with pytest.raises(MetadataInvalidError, match="not signed by the release key"):
        trust.online().publish(data, None, now=NOW)


def test_rolled_back_release_metadata_is_refused(trust: Trust, tmp_path: Path) -> None:
    old = trust.signer().add(target_of(text_bundle(tmp_path)), now=NOW)
    trust.publish(text_bundle(tmp_path), now=NOW)
    trust.publish(text_bundle(tmp_path, release=2), release=2, now=NOW)
    with pytest.raises(MetadataInvalidError, match="rolled back"):
        trust.online().publish(old, None, now=NOW)


def test_expired_release_metadata_is_refused(trust: Trust, tmp_path: Path) -> None:
    data = trust.signer().add(target_of(text_bundle(tmp_path)), now=NOW)
    with pytest.raises(MetadataInvalidError, match="expired"):
        trust.online().publish(data, None, now=NOW + timedelta(days=365))


def test_a_bundle_of_wrong_length_or_bytes_is_refused(trust: Trust, tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path)
    data = trust.signer().add(target_of(bundle), now=NOW)
    online = trust.online()
    for bad in (bundle.path.read_bytes() + b"x", bundle.path.read_bytes()[:-1]):
        upload = online.upload_path("bad")
        upload.write_bytes(bad)
        with pytest.raises(BundleInvalidError):
            online.publish(data, upload, now=NOW)
        assert online.targets() == {}


def test_a_genuine_bundle_signed_under_another_name_is_refused(trust: Trust, tmp_path: Path) -> None:
    with pytest.raises(BundleInvalidError, match="as signed"):
        trust.publish(text_bundle(tmp_path, release=1), release=7)


def test_a_published_path_never_changes_its_bytes(trust: Trust, tmp_path: Path) -> None:
    trust.publish(text_bundle(tmp_path, seed=1))
    with pytest.raises(ReleaseExistsError):
        trust.publish(text_bundle(tmp_path, seed=2))


def test_a_release_whose_bundle_never_arrived_cannot_be_rolled_out(trust: Trust, tmp_path: Path) -> None:
    target = target_of(text_bundle(tmp_path))
    online = trust.online()
    online.publish(trust.signer().add(target, now=NOW), None, now=NOW)
    assert target.path in online.targets()
    with pytest.raises(BundleMissingError):
        online.target(target.path)


@pytest.mark.parametrize("digest", ["../../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64])
def test_bundles_are_served_by_digest_and_nothing_else(trust: Trust, digest: str) -> None:
    with pytest.raises(BundleMissingError):
        trust.online().bundle_path(digest)


@pytest.mark.parametrize(
    "name", ["../keys/online/snapshot.pem", "root.json", "0.root.json", "timestamp.json/x", "1.root.json\n", "1.evil.json"]
)
def test_metadata_is_served_by_name_and_nothing_else(trust: Trust, name: str) -> None:
    with pytest.raises(MetadataInvalidError):
        trust.online().metadata(name)


def test_the_timestamp_is_signed_again_and_the_snapshot_when_half_its_term_is_over(trust: Trust) -> None:
    online = trust.online()
    assert online.resign_timestamp(now=NOW + timedelta(hours=1)) == 2
    assert (online.snapshot_version, online.timestamp_expires) == (1, NOW + timedelta(days=2, hours=1))
    online.resign_timestamp(now=NOW + timedelta(days=20))
    assert online.snapshot_version == 2


def test_a_repository_that_was_tampered_with_does_not_open(trust: Trust, tmp_path: Path) -> None:
    stranger = Trust.make(tmp_path / "stranger")
    (stranger.repository / "metadata" / "1.targets.json").replace(trust.repository / "metadata" / "1.targets.json")
    with pytest.raises(MetadataInvalidError):
        OnlineRepository(trust.repository, trust.keys / "online")


@pytest.mark.parametrize(
    "change",
    [
        {"security_floor": 2},
        {"length": 0},
        {"length": 1 << 40},
        {"digest": "x"},
        {"path": "releases/../x"},
        {"student": "A"},
        {"generation": True},
    ],
)
def test_a_target_that_means_nothing_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(TargetInvalidError):
        target_of(text_bundle(tmp_path), **change)
