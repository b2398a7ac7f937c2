"""The repository as it is published: every role's newest metadata, each signature followed from the first root on.

Read without any private key. Whether something has expired is the reader's question (`Published.expiries`), because an
expired repository must still be readable to be renewed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from pipeline.releases.repository import ROLE_RELEASES, MetadataInvalidError, parse_metadata, read_metadata
from pipeline.releases.target import ReleaseTarget
from pipeline.releases.yanked import Yank, yanks_of


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
    root = _newest_root(repo_dir)
    timestamp = parse_metadata(read_metadata(repo_dir, "timestamp.json"), Timestamp, name="timestamp")
    snapshot_name = f"{timestamp.signed.snapshot_meta.version}.snapshot.json"
    snapshot = parse_metadata(read_metadata(repo_dir, snapshot_name), Snapshot, name="snapshot")
    try:
        versions = {name: snapshot.signed.meta[f"{name}.json"].version for name in ("targets", ROLE_RELEASES)}
    except KeyError as error:
        raise MetadataInvalidError(snapshot_name, f"no {error}", "targets and releases") from error
    targets, releases = (
        parse_metadata(read_metadata(repo_dir, f"{version}.{name}.json"), Targets, name=name) for name, version in versions.items()
    )
    try:
        for role, metadata in (("timestamp", timestamp), ("snapshot", snapshot), ("targets", targets)):
            root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        targets.signed.verify_delegate(ROLE_RELEASES, releases.signed_bytes, releases.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise MetadataInvalidError(str(repo_dir), f"{error}"[:120], "metadata signed by the keys of this repository") from error
    return Published(root=root, timestamp=timestamp, snapshot=snapshot, targets=targets, releases=releases)


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
