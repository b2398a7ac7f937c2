"""The repository as the orchestrator holds it: publishes what the release key signed, and keeps the timestamp fresh.

Holds the snapshot and timestamp keys only, so it cannot make a release. A publication verifies everything first, stores
bundle and metadata under names of their own, and becomes visible with the rename of `timestamp.json`; a crash before it
leaves the old state. A published path never changes its digest, and nothing is signed with a key that the repository does not list.
Safe to call from several threads, and by several replicas that share the folder: one publishes at a time, and each sees what another
has published.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Targets

from pipeline.errors import ReleaseError
from pipeline.files import make_private_folder, sync_folder, write_atomic
from pipeline.releases.assignment import assignment_keys
from pipeline.releases.bundle import digest_file, open_bundle
from pipeline.releases.journal import alone_with
from pipeline.releases.keys import LOCKED, KeyNotListedError, Unlock, check_listed, load_key
from pipeline.releases.manifest import BundleInvalidError
from pipeline.releases.published import read_published
from pipeline.releases.repository import (
    MAX_METADATA_BYTES,
    ROLE_RELEASES,
    SNAPSHOT_VALID,
    MetadataInvalidError,
    parse_metadata,
    read_metadata,
    sign_snapshot,
    sign_timestamp,
)
from pipeline.releases.target import DIGEST, ReleaseTarget
from pipeline.releases.yanked import yanks_of


class BundleMissingError(ReleaseError):
    """A bundle is asked for that the repository does not hold."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what!r:.120}: no such published bundle; expected a signed and uploaded release; `kdpipe releases ls DIR` lists them"


class ReleaseYankedError(BundleMissingError):
    """A release is asked for that was taken back."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path)
        self.args = (path, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"release {self.what} was yanked ({self.reason}); expected one that is in force; `kdpipe releases ls DIR` lists them"


class OnlineRepository:
    """Verifies, stores and serves releases. `keys_online` is the folder with snapshot.pem and timestamp.pem.

    Raises MetadataInvalidError, KeyNotListedError and what `load_key` raises.
    """

    def __init__(self, repo_dir: Path, keys_online: Path, unlock: Unlock = LOCKED) -> None:
        self._dir, self._lock, self._keys, self._unlock = repo_dir, threading.RLock(), keys_online, unlock
        self._stamp: tuple[int, int] | None = None
        self._incoming = make_private_folder(repo_dir / "incoming")
        self._signers = self._read_keys()
        with self._alone():
            pass

    @property
    def snapshot_version(self) -> int:
        return self._snapshot.signed.version

    @property
    def timestamp_expires(self) -> datetime:
        return self._timestamp.signed.expires

    @property
    def expiries(self) -> Mapping[str, datetime]:
        """Role -> when what it signed expires."""
        with self._lock:
            self._catch_up()
            return self._published.expiries

    def metadata(self, name: str, max_bytes: int = MAX_METADATA_BYTES) -> bytes:
        """A metadata file by its TUF name ("timestamp.json", "3.root.json"). Raises MetadataInvalidError."""
        return read_metadata(self._dir, name, max_bytes)

    def targets(self) -> dict[str, ReleaseTarget]:
        """Every published release, by path, whether or not its bundle is here."""
        with self._lock:
            self._catch_up()
            return {path: ReleaseTarget.from_tuf(target) for path, target in self._releases.signed.targets.items()}

    def target(self, path: str) -> ReleaseTarget:
        """A release that can be rolled out: published, and its bundle is here. Raises BundleMissingError, ReleaseYankedError."""
        target = self.targets().get(path)
        if target is None:
            with self._lock:
                yank = yanks_of(self._releases.signed).get(path)
            raise ReleaseYankedError(path, yank.reason) if yank is not None else BundleMissingError(path)
        self.bundle_path(target.digest)
        return target

    def bundle_path(self, digest: str) -> Path:
        """The file of a published bundle or delta. Raises BundleMissingError, also for anything that is not a hex SHA-256."""
        path = self._dir / "bundles" / digest if DIGEST.fullmatch(digest) else None
        if path is None or not path.is_file():
            raise BundleMissingError(digest)
        return path

    def upload_path(self, name: str) -> Path:
        """Where to write an upload before `publish`; on the same file system as the bundles. `name` is yours and unique."""
        if not name.isalnum():
            raise BundleMissingError(name)
        return self._incoming / f"{name}.part"

    def publish(self, release_metadata: bytes, bundle: Path | None, *, now: datetime) -> int:
        """Make newly signed releases visible; returns the snapshot version that names them. `bundle`, or a delta to one, is moved away.

        Publishing the same again changes nothing. Raises MetadataInvalidError (unsigned, rolled back, expired, changed path) or
        BundleInvalidError (not one of the signed releases, wrong length), or KeyNotListedError; then nothing is changed.
        """
        with self._alone():
            metadata = self._verify(release_metadata, now)
            targets = [ReleaseTarget.from_tuf(target) for target in metadata.signed.targets.values()]
            if bundle is not None:
                self._store(bundle, targets)
            if metadata.signed.version == self._releases.signed.version:
                return self.snapshot_version
            write_atomic(self._dir / "metadata" / f"{metadata.signed.version}.{ROLE_RELEASES}.json", release_metadata)
            meta = {**self._snapshot.signed.meta, f"{ROLE_RELEASES}.json": MetaFile(metadata.signed.version)}
            self._commit(meta, now)
            return self.snapshot_version

    def resign_timestamp(self, *, now: datetime) -> int:
        """Sign a fresh timestamp (and a snapshot when half its term is over). Returns the timestamp's version. Raises KeyNotListedError."""
        with self._alone():
            if self._snapshot.signed.expires - now < SNAPSHOT_VALID / 2:
                self._commit(dict(self._snapshot.signed.meta), now)
            else:
                self._point_at(self.snapshot_version, now)
            return self._timestamp.signed.version

    def check_assignments(self, signer: Signer, path: Path) -> None:
        """That devices believe assignments by this key, which is at `path`. Raises KeyNotListedError."""
        with self._lock:
            self._catch_up()
            listed = assignment_keys(self._targets.to_bytes())
        check_listed(signer, listed, role="assignment", path=path)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread and no other process changes it, what they published is known, and it lists the keys that will sign."""
        with self._lock, alone_with(self._dir):
            self._catch_up()
            try:
                self._check_keys()
            except KeyNotListedError:
                self._signers = self._read_keys()  # they were replaced, and those in the folder may be the new ones
                self._check_keys()
            yield

    def _check_keys(self) -> None:
        for role, signer in self._signers.items():
            check_listed(signer, self._root.signed.roles[role].keyids, role=role, path=self._keys / f"{role}.pem")

    def _read_keys(self) -> dict[str, Signer]:
        return {role: load_key(self._keys / f"{role}.pem", self._unlock) for role in ("snapshot", "timestamp")}

    def _catch_up(self) -> None:
        if self._stamp_of_timestamp() != self._stamp:
            self._load()

    def _stamp_of_timestamp(self) -> tuple[int, int]:
        """Changes whenever timestamp.json is replaced. (0, 0) where there is none, which reading it will say."""
        try:
            found = (self._dir / "metadata" / "timestamp.json").stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

    def _commit(self, meta: dict[str, MetaFile], now: datetime) -> None:
        version = self.snapshot_version + 1
        data = sign_snapshot(meta, self._signers["snapshot"], version=version, now=now)
        write_atomic(self._dir / "metadata" / f"{version}.snapshot.json", data)
        self._point_at(version, now)

    def _point_at(self, snapshot_version: int, now: datetime) -> None:
        version = self._timestamp.signed.version + 1
        try:
            data = sign_timestamp(snapshot_version, self._signers["timestamp"], version=version, now=now)
            write_atomic(self._dir / "metadata" / "timestamp.json", data)
        finally:
            self._load()

    def _verify(self, data: bytes, now: datetime) -> Metadata[Targets]:
        name = f"{ROLE_RELEASES}.json"
        if len(data) > MAX_METADATA_BYTES:
            raise MetadataInvalidError(name, f"{len(data)} bytes", f"at most {MAX_METADATA_BYTES}")
        metadata = parse_metadata(data, Targets, name=name)
        try:
            self._targets.signed.verify_delegate(ROLE_RELEASES, metadata.signed_bytes, metadata.signatures)
        except (UnsignedMetadataError, ValueError) as error:
            raise MetadataInvalidError(name, "not signed by the release key", "a signature by the key that targets delegates to") from error
        new, old = metadata.signed, self._releases.signed
        if new.is_expired(now):
            raise MetadataInvalidError(name, f"expired at {new.expires.isoformat()}", "metadata that is in force")
        if new.delegations is not None:
            raise MetadataInvalidError(name, "a delegation", "releases only")
        if new.version < old.version or (new.version == old.version and new != old):
            raise MetadataInvalidError(name, f"version {new.version} (rolled back or forked)", f"above {old.version}")
        for path, target in old.targets.items():
            if path in new.targets and new.targets[path].hashes != target.hashes:
                raise MetadataInvalidError(name, f"{path} with another digest", "published paths unchanged")
        yanked, still = yanks_of(old), yanks_of(new)
        back = sorted(path for path in yanked if path in new.targets or still.get(path) != yanked[path])
        if back:
            raise MetadataInvalidError(name, f"{back[0]}, which was yanked, as if it were not", "yanked releases yanked")
        return metadata

    def _store(self, bundle: Path, targets: list[ReleaseTarget]) -> None:
        digest, length = digest_file(bundle)
        is_delta = any((delta.digest, delta.length) == (digest, length) for target in targets for delta in target.deltas)
        if not is_delta:
            self._check_bundle(bundle, digest, length, targets)
        bundle.replace(self._dir / "bundles" / digest)
        sync_folder(self._dir / "bundles")

    def _check_bundle(self, bundle: Path, digest: str, length: int, targets: list[ReleaseTarget]) -> None:
        match = next((t for t in targets if t.digest == digest and t.length == length), None)
        if match is None:
            raise BundleInvalidError(bundle.name, f"{length} bytes with digest {digest}", "length and digest of a signed release or delta")
        manifest = open_bundle(bundle).manifest
        if (manifest.student, manifest.release) != (match.student, match.release):
            found = f"{manifest.student} {manifest.release}"
            raise BundleInvalidError(bundle.name, f"a manifest of {found}", f"{match.student} {match.release}, as signed")

    def _load(self) -> None:
        """Read the state that timestamp.json names, verified from the first root on."""
        stamp = self._stamp_of_timestamp()
        self._published = found = read_published(self._dir)
        self._root, self._targets, self._releases = found.root, found.targets, found.releases
        self._timestamp, self._snapshot = found.timestamp, found.snapshot
        self._stamp = stamp
