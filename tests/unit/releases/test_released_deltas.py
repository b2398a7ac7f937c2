"""Deltas in signed metadata: under the release key, published like bundles, unknown to older devices."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile

from pipeline.releases.delta import apply_delta
from pipeline.releases.manifest import BundleInvalidError
from pipeline.releases.online import BundleMissingError
from pipeline.releases.signer import RELEASES_WITH_DELTAS, ReleaseExistsError
from pipeline.releases.target import DeltaFile, ReleaseTarget, TargetInvalidError
from pipeline.rollout.device import DeviceRecord
from pipeline.rollout.device_file import from_json, to_json
from tests.kit.bundles import NOW, Trust, moved_table, target_of, text_bundle
from workers.driver.shrinking import predecessors, write_deltas

DELTA = DeltaFile(source="a" * 64, digest="b" * 64, length=10)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust.make(tmp_path)


def test_deltas_read_back_from_metadata_and_from_a_devices_record(tmp_path: Path) -> None:
    target = target_of(text_bundle(tmp_path), deltas=(DELTA, DeltaFile(source="", digest="c" * 64, length=20)))
    assert ReleaseTarget.from_tuf(target.to_tuf()) == target
    record = DeviceRecord(incarnation=1, release=target)
    assert from_json(to_json(record)) == record


def test_a_record_written_before_there_were_deltas_is_read(tmp_path: Path) -> None:
    record = DeviceRecord(incarnation=1, release=target_of(text_bundle(tmp_path)))
    tree = json.loads(to_json(record))
    del tree["release"]["deltas"]
    assert from_json(json.dumps(tree).encode()) == record


@pytest.mark.parametrize(
    "deltas",
    [
        "none",
        [1],
        ["a"],
        [{"from": "a" * 64, "sha256": "b" * 64}],
        [{"from": "../../x", "sha256": "b" * 64, "length": 1}],
        [{"from": None, "sha256": "b" * 64, "length": 1}],
        [{"from": "", "sha256": "B" * 64, "length": 1}],
        [{"from": "", "sha256": "b" * 64, "length": 0}],
        [{"from": "", "sha256": "b" * 64, "length": True}],
        [{"from": "", "sha256": "b" * 64, "length": 1 << 40}],
        [{"from": "", "sha256": "b" * 64, "length": 1}] * 33,
    ],
)
def test_metadata_with_malformed_deltas_is_refused(tmp_path: Path, deltas: Any) -> None:
    tuf = target_of(text_bundle(tmp_path)).to_tuf()
    custom = {**tuf.custom, "deltas": deltas}
    with pytest.raises(TargetInvalidError):
        ReleaseTarget.from_tuf(TargetFile(tuf.length, tuf.hashes, tuf.path, {"custom": custom}))


def test_a_release_without_deltas_is_signed_as_before(tmp_path: Path) -> None:
    assert "deltas" not in target_of(text_bundle(tmp_path)).to_tuf().custom


def test_a_published_delta_is_served_by_its_digest(trust: Trust, tmp_path: Path) -> None:
    first, second = text_bundle(tmp_path, release=1), text_bundle(tmp_path, release=2, table=moved_table())
    trust.publish(first, release=1)
    target = trust.publish(second, release=2, deltas_from=[first])
    delta = next(delta for delta in target.deltas if delta.source == first.sha256)
    online = trust.online()
    data = online.bundle_path(delta.digest).read_bytes()
    assert len(data) == delta.length < second.length / 5
    made = apply_delta(data, online.bundle_path(first.sha256).read_bytes(), sha256=second.sha256, length=second.length)
    assert made == second.path.read_bytes()
    assert online.target(target.path) == target


def test_a_file_that_no_signed_release_names_is_not_stored(trust: Trust, tmp_path: Path) -> None:
    target = target_of(text_bundle(tmp_path), deltas=(DELTA,))
    metadata, online = trust.signer().add(target, now=NOW), trust.online()
    upload = online.upload_path("u1")
    upload.write_bytes(b"0" * DELTA.length)
    with pytest.raises(BundleInvalidError, match="a signed release or delta"):
        online.publish(metadata, upload, now=NOW)
    with pytest.raises(BundleMissingError):
        online.bundle_path(DELTA.digest)


def test_a_release_signed_again_keeps_the_deltas_it_was_signed_with(trust: Trust, tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path)
    before = trust.signer().add(target_of(bundle, deltas=(DELTA,)), now=NOW)
    assert trust.signer().add(target_of(bundle), now=NOW) == before


def test_only_the_newest_releases_keep_their_deltas_in_metadata(trust: Trust, tmp_path: Path) -> None:
    for number in range(1, 6):
        for student in ("small", "large"):
            bundle = text_bundle(tmp_path, release=number, seed=number, student=student)
            trust.signer().add(target_of(bundle, release=number, student=student, deltas=(DELTA,)), now=NOW)
    told = {path for path, target in trust.signer().targets.items() if target.deltas}
    newest = range(6 - RELEASES_WITH_DELTAS, 6)
    assert told == {f"releases/{student}-{number:06d}.kdpb" for student in ("small", "large") for number in newest}


def test_metadata_names_the_newest_releases_and_no_number_is_ever_signed_again(
    trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.releases.signer.RELEASES_KEPT", 3)
    bundle, signer = text_bundle(tmp_path), trust.signer()
    for number in range(1, 6):
        for student in ("small", "large"):
            metadata = signer.add(target_of(bundle, release=number, student=student), now=NOW)
    assert sorted(target.release for target in signer.targets.values()) == [3, 3, 4, 4, 5, 5]
    assert signer.next_release("small") == 6
    with pytest.raises(ReleaseExistsError, match="below 3"):
        signer.add(target_of(bundle, release=2), now=NOW)
    assert trust.online().publish(metadata, None, now=NOW) == 2


def test_deltas_are_made_from_the_last_releases_of_the_same_student(tmp_path: Path) -> None:
    targets = [
        target_of(text_bundle(tmp_path, release=number, seed=number, student=student), release=number, student=student)
        for number in (1, 2, 3, 4, 5)
        for student in ("small", "large")
    ]
    found = predecessors(targets, student="small", release=5, most=3)
    assert [(target.student, target.release) for target in found] == [("small", 4), ("small", 3), ("small", 2)]
    assert predecessors(targets, student="small", release=1, most=3) == []


def test_the_same_releases_give_the_same_deltas_and_a_lost_base_gives_none(tmp_path: Path) -> None:
    first, second = text_bundle(tmp_path, release=1), text_bundle(tmp_path, release=2, table=moved_table())
    bases = {first.sha256: first.path, "f" * 64: tmp_path / "lost.kdpb"}
    made = write_deltas(tmp_path / "a", second, bases)
    assert made == write_deltas(tmp_path / "b", second, bases)
    assert [delta.source for delta in made] == ["", first.sha256]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {delta.digest for delta in made}


def test_a_delta_that_spares_nothing_is_not_listed(tmp_path: Path) -> None:
    first, second = text_bundle(tmp_path, release=1, seed=1), text_bundle(tmp_path, release=2, seed=2)
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)))
    made = write_deltas(tmp_path / "deltas", second, {first.sha256: noise})
    assert all(delta.length < second.length for delta in made)
