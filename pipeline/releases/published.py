"""The repository as it is published: every role's newest metadata, each signature followed from the first root on.

Read without any private key. Whether something has expired is the reader's question (`Published.expiries`), because an
expired repository must still be readable to be renewed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from pipeline.releases.repository import METADATA_NAME, ROLE_RELEASES, MetadataInvalidError, parse_metadata, read_metadata
from pipeline.releases.target import ReleaseTarget
from pipeline.releases.yanked import Yank, yanks_of

SOON = timedelta(days=30)
"""Before it expires, metadata that nobody signs by itself should be renewed."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Verified metadata of one moment."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    releases: Metadata[Targets]

    @property
    def expiries(self) -> Mapping[str, datetime]:
        """Role -> when it expires."""
        return {
            "root": self.root.signed.expires,
            "targets": self.targets.signed.expires,
            ROLE_RELEASES: self.releases.signed.expires,
            "snapshot": self.snapshot.signed.expires,
            "timestamp": self.timestamp.signed.expires,
        }

    @property
    def release_targets(self) -> dict[str, ReleaseTarget]:
        """Every release that devices may be given, by path."""
        return {path: ReleaseTarget.from_tuf(target) for path, target in self.releases.signed.targets.items()}

    @property
    def yanks(self) -> dict[str, Yank]:
        """Every release that was taken back, by path."""
        return yanks_of(self.releases.signed)


def read_published(repo_dir: Path) -> Published:
    """What `timestamp.json` names, verified. Raises MetadataInvalidError."""
    root, timestamp = _newest_root(repo_dir), _timestamp(repo_dir)
    snapshot = _snapshot(repo_dir, timestamp.signed.snapshot_meta.version)
    for role, metadata in (("timestamp", timestamp), ("snapshot", snapshot)):
        _check_signed(root, role, metadata, f"{role} metadata by the keys that root lists; `kdpipe keys rotate DIR {role}` signs it anew")
    return _below(repo_dir, root, timestamp, snapshot)


def read_unsigned(repo_dir: Path) -> Published:
    """The same where timestamp or snapshot are not signed by the keys that root lists: for who signs both anew, as next versions.

    The newest snapshot that the right key did sign says what is published. Raises MetadataInvalidError.
    """
    root, timestamp = _newest_root(repo_dir), _timestamp(repo_dir)
    names = (path.name for path in (repo_dir / "metadata").glob("*.snapshot.json") if METADATA_NAME.fullmatch(path.name))
    for version in sorted((int(name.partition(".")[0]) for name in names), reverse=True):
        try:
            snapshot = _snapshot(repo_dir, version)
            _check_signed(root, "snapshot", snapshot, "its key")
        except MetadataInvalidError:
            continue
        snapshot.signed.version = max(version, timestamp.signed.snapshot_meta.version)  # devices may have heard of the bad one
        return _below(repo_dir, root, timestamp, snapshot)
    raise MetadataInvalidError("snapshot", "none that a key of this repository signed", "one; restore the repository from a backup")


def _timestamp(repo_dir: Path) -> Metadata[Timestamp]:
    return parse_metadata(read_metadata(repo_dir, "timestamp.json"), Timestamp, name="timestamp")


def _snapshot(repo_dir: Path, version: int) -> Metadata[Snapshot]:
    return parse_metadata(read_metadata(repo_dir, f"{version}.snapshot.json"), Snapshot, name="snapshot")


def _below(repo_dir: Path, root: Metadata[Root], timestamp: Metadata[Timestamp], snapshot: Metadata[Snapshot]) -> Published:
    """With the targets and releases that the snapshot names, verified."""
    try:
        versions = {name: snapshot.signed.meta[f"{name}.json"].version for name in ("targets", ROLE_RELEASES)}
    except KeyError as error:
        raise MetadataInvalidError("snapshot", f"no {error}", "targets and releases") from error
    targets, releases = (
        parse_metadata(read_metadata(repo_dir, f"{version}.{name}.json"), Targets, name=name) for name, version in versions.items()
    )
    _check_signed(root, "targets", targets, "metadata signed by the keys of this repository")
    _check_signed(targets, ROLE_RELEASES, releases, "metadata signed by the keys of this repository")
    return Published(root=root, timestamp=timestamp, snapshot=snapshot, targets=targets, releases=releases)


def _check_signed(by: Metadata[Root] | Metadata[Targets], role: str, metadata: Metadata[Any], expected: str) -> None:
    try:
        by.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise MetadataInvalidError(role, f"{error}"[:120], expected) from error


def _newest_root(repo_dir: Path) -> Metadata[Root]:
    """The end of the chain: each root signed by the one before it and by itself."""
    version = 1
    root = parse_metadata(read_metadata(repo_dir, "1.root.json"), Root, name="1.root.json")
    _check_root(root, root, version)
    while (repo_dir / "metadata" / f"{version + 1}.root.json").exists():
        version += 1
        name = f"{version}.root.json"
        following = parse_metadata(read_metadata(repo_dir, name), Root, name=name)
        for by in (root, following):
            _check_root(by, following, version)
        root = following
    return root


def _check_root(by: Metadata[Root], root: Metadata[Root], version: int) -> None:
    if root.signed.version != version:
        raise MetadataInvalidError(f"{version}.root.json", f"version {root.signed.version}", f"version {version}")
    try:
        by.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except UnsignedMetadataError as error:
        raise MetadataInvalidError(f"{version}.root.json", f"{error}"[:120], "signatures by the root before it and its own") from error
