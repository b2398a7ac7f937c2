"""Attacks on metadata, as a device sees them: whoever holds the network, or an online key, changes nothing."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Targets, Timestamp

from pipeline.releases.keys import load_key
from pipeline.releases.repository import issued_at, parse_metadata, sign_metadata
from tests.kit.bundles import NOW, Trust, text_bundle
from tests.kit.devices import Device
from workers.edge import BUILD_UNIX_S
from workers.edge.trust import MetadataRefusedError, MetadataUnreachableError, TrustedTime

PATH = "releases/small-000001.kdpb"


@pytest.fixture
def fleet(tmp_path: Path) -> Trust:
    trust = Trust.make(tmp_path / "fleet")
    trust.publish(text_bundle(tmp_path / "bundles"))
    return trust


@pytest.fixture
def device(fleet: Trust, tmp_path: Path) -> Device:
    return Device(tmp_path / "device", fleet)


def metadata(fleet: Trust, name: str) -> bytes:
    return (fleet.repository / "metadata" / name).read_bytes()


def looked_up(device: Device, path: str = PATH) -> str | None:
    device.trust.refresh(device.now)
    release = device.trust.release(path)
    return release.digest if release is not None else None


def serve(device: Device, **files: bytes | None) -> None:
    """Answer these names ("timestamp_json") with these bytes."""
    names = {name.replace("_", "."): data for name, data in files.items()}
    device.rewrite_metadata = lambda name, data: names.get(name, data)


def test_honest_metadata_gives_the_release_and_the_time_it_was_signed(device: Device) -> None:
    assert device.trust.refresh(NOW) == int(NOW.timestamp())
    release = device.trust.release(PATH)
    assert release is not None
    assert (release.student, release.release, release.security_floor) == ("small", 1, 1)
    assert len(device.trust.keys()) == 1
    assert looked_up(device, "releases/small-000009.kdpb") is None


def test_a_replayed_timestamp_is_refused(fleet: Trust, device: Device) -> None:
    old = metadata(fleet, "timestamp.json")
    fleet.online().resign_timestamp(now=NOW)
    device.trust.refresh(NOW)
    device.rewrite_metadata = lambda name, data: old if name == "timestamp.json" else data
    with pytest.raises(MetadataRefusedError, match="timestamp"):
        device.trust.refresh(NOW)


def test_a_rolled_back_snapshot_is_refused_even_with_the_timestamp_key(fleet: Trust, device: Device, tmp_path: Path) -> None:
    device.trust.refresh(NOW)
    stolen = load_key(fleet.keys / "online" / "timestamp.pem")
    timestamp = parse_metadata(metadata(fleet, "timestamp.json"), Timestamp, name="t").signed
    timestamp.version += 1
    timestamp.snapshot_meta.version -= 1
    forged = sign_metadata(timestamp, stolen)
    device.rewrite_metadata = lambda name, data: forged if name == "timestamp.json" else data
    with pytest.raises(MetadataRefusedError):
        device.trust.refresh(NOW)


def test_mix_and_match_of_releases_and_snapshot_is_refused(fleet: Trust, device: Device, tmp_path: Path) -> None:
    old = metadata(fleet, "2.releases.json")
    fleet.publish(text_bundle(tmp_path / "b", release=2), release=2)
    device.rewrite_metadata = lambda name, data: old if name.endswith("releases.json") else data
    device.trust.refresh(NOW)
    with pytest.raises(MetadataRefusedError):
        device.trust.release(PATH)


def test_unsigned_releases_are_refused(fleet: Trust, device: Device) -> None:
    tree = json.loads(metadata(fleet, "2.releases.json"))
    tree["signatures"] = []
    device.rewrite_metadata = lambda name, data: json.dumps(tree).encode() if name.endswith("releases.json") else data
    device.trust.refresh(NOW)
    with pytest.raises(MetadataRefusedError, match="signed"):
        device.trust.release(PATH)


def test_a_release_signed_by_every_online_key_is_refused(fleet: Trust, device: Device) -> None:
    signed = parse_metadata(metadata(fleet, "2.releases.json"), Targets, name="r").signed
    forged = sign_metadata(signed, *(load_key(fleet.keys / "online" / f"{n}.pem") for n in ("snapshot", "timestamp", "assignment")))
    device.rewrite_metadata = lambda name, data: forged if name.endswith("releases.json") else data
    device.trust.refresh(NOW)
    with pytest.raises(MetadataRefusedError, match="signed"):
        device.trust.release(PATH)


def test_the_release_key_cannot_sign_outside_of_releases(fleet: Trust, device: Device) -> None:
    signed: Any = parse_metadata(metadata(fleet, "2.releases.json"), Targets, name="r").signed
    signed.targets["other/thing"] = signed.targets[PATH]
    forged = sign_metadata(signed, load_key(fleet.keys / "release" / "release.pem"))
    device.rewrite_metadata = lambda name, data: forged if name.endswith("releases.json") else data
    assert looked_up(device, "other/thing") is None


def test_a_root_with_one_of_two_signatures_is_refused(fleet: Trust, device: Device) -> None:
    root = parse_metadata(metadata(fleet, "1.root.json"), Root, name="root").signed
    root.version = 2
    half = sign_metadata(root, load_key(fleet.keys / "offline" / "root-1.pem"))
    (fleet.repository / "metadata" / "2.root.json").write_bytes(half)
    with pytest.raises(MetadataRefusedError, match=r"1/2|signed"):
        device.trust.refresh(NOW)


def test_a_root_rotated_by_two_of_three_is_followed_and_the_old_timestamp_key_is_out(fleet: Trust, device: Device) -> None:
    device.trust.refresh(NOW)
    root = parse_metadata(metadata(fleet, "1.root.json"), Root, name="root").signed
    stolen = load_key(fleet.keys / "online" / "timestamp.pem")
    new = load_key(fleet.keys / "offline" / "root-3.pem")  # any key will do
    root.version = 2
    root.revoke_key(stolen.public_key.keyid, "timestamp")
    root.add_key(new.public_key, "timestamp")
    rotated = sign_metadata(root, *(load_key(fleet.keys / "offline" / f"root-{n}.pem") for n in (2, 3)))
    (fleet.repository / "metadata" / "2.root.json").write_bytes(rotated)
    with pytest.raises(MetadataRefusedError, match="timestamp"):
        device.trust.refresh(NOW)
    timestamp = parse_metadata(metadata(fleet, "timestamp.json"), Timestamp, name="t").signed
    timestamp.version += 1
    (fleet.repository / "metadata" / "timestamp.json").write_bytes(sign_metadata(timestamp, new))
    assert looked_up(device) is not None


def test_expired_metadata_is_refused_by_trusted_time_and_not_by_the_wall_clock(device: Device) -> None:
    """This proves that `reference_time` is what python-tuf goes by: the machine's own clock is on neither side of it here."""
    for now in (NOW + timedelta(days=3), NOW + timedelta(days=4000)):
        with pytest.raises(MetadataRefusedError) as refused:
            device.trust.refresh(now)
        assert refused.value.by_clock
    device.trust.refresh(NOW)


def test_metadata_for_another_role_is_refused(fleet: Trust, device: Device) -> None:
    device.rewrite_metadata = lambda name, data: metadata(fleet, "1.root.json") if name == "timestamp.json" else data
    with pytest.raises(MetadataRefusedError):
        device.trust.refresh(NOW)


def test_endless_metadata_is_cut(device: Device) -> None:
    device.rewrite_metadata = lambda name, data: b" " * 6_000_000 if name.endswith("snapshot.json") else data
    with pytest.raises(MetadataUnreachableError, match="exceeding"):
        device.trust.refresh(NOW)


def test_an_arbitrary_first_root_is_not_taken_from_the_network(fleet: Trust, tmp_path: Path) -> None:
    stranger = Trust.make(tmp_path / "stranger")
    made = Device(tmp_path / "device-2", fleet)
    made.rewrite_metadata = lambda name, data: (stranger.repository / "metadata" / name).read_bytes()
    with pytest.raises(MetadataRefusedError):
        made.trust.refresh(NOW)


def test_no_network_is_not_a_refusal(device: Device) -> None:
    device.offline = True
    with pytest.raises(MetadataUnreachableError):
        device.trust.refresh(NOW)


def test_what_is_stored_was_verified(fleet: Trust, device: Device) -> None:
    device.trust.refresh(NOW)
    good = (device.folder.tuf / "targets.json").read_bytes()
    fleet.online().resign_timestamp(now=NOW)
    device.rewrite_metadata = lambda name, data: b"{}" if name != "1.root.json" else data
    with pytest.raises(MetadataRefusedError):
        device.trust.refresh(NOW)
    assert (device.folder.tuf / "targets.json").read_bytes() == good
    Metadata.from_bytes((device.folder.tuf / "timestamp.json").read_bytes())


@pytest.mark.parametrize(
    ("wall", "signed", "expected", "behind"),
    [
        (0.0, 0, BUILD_UNIX_S, True),
        (0.0, BUILD_UNIX_S + 1000, BUILD_UNIX_S + 1000, True),
        (BUILD_UNIX_S + 5000.0, BUILD_UNIX_S + 1000, BUILD_UNIX_S + 5000, False),
        (BUILD_UNIX_S + 900.0, BUILD_UNIX_S + 1000, BUILD_UNIX_S + 1000, False),
    ],
)
def test_trusted_time_is_never_turned_back(wall: float, signed: int, expected: int, behind: bool) -> None:
    time = TrustedTime(wall_unix_s=wall, signed_unix_s=signed)
    assert (time.now, time.wall_is_behind) == (datetime.fromtimestamp(expected, UTC), behind)


def test_a_timestamp_without_a_time_of_signing_gives_none(fleet: Trust) -> None:
    timestamp = parse_metadata(metadata(fleet, "timestamp.json"), Timestamp, name="t").signed
    for value in ("yesterday", 5, "2026-11-01T00:00:00"):
        timestamp.unrecognized_fields["x-kdpipe-issued"] = value
        assert issued_at(timestamp) is None
