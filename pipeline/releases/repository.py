"""The TUF repository: who may sign what, how long, and how it is laid out.

    keys/offline   root-1..3.pem (root needs 2 of 3), targets.pem   -> moved away by the operator after creation
    keys/release   release.pem                                      -> the driver: signs `releases`, a role delegated by targets
    keys/online    snapshot.pem, timestamp.pem, assignment.pem      -> the orchestrator
    repository     metadata/N.root.json, N.targets.json, N.releases.json, N.snapshot.json, timestamp.json; bundles/SHA256

`timestamp.json` is written last and names the rest, so a crash leaves the old state or the new. Adding releases is
`signer`'s, publishing them `online`'s.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from pipeline.errors import ReleaseError
from pipeline.files import create_exclusive, make_private_folder, read_bounded, write_atomic
from pipeline.releases.keys import LOCKED, OFFLINE, ONLINE, RELEASE, ROOT_KEYS, KeyUnusableError, Unlock, ensure_key, keyid_at

ROLE_RELEASES = "releases"
ROLE_ASSIGNMENT = "assignment"
ISSUED = "x-kdpipe-issued"
"""Extra field of timestamp.json: when it was signed. A device takes it as a lower bound of the time."""
ROOT_VALID = timedelta(days=365)
TARGETS_VALID = timedelta(days=365)
RELEASES_VALID = timedelta(days=180)
SNAPSHOT_VALID = timedelta(days=30)
TIMESTAMP_VALID = timedelta(days=2)
MAX_METADATA_BYTES = 5_000_000
METADATA_NAME = re.compile(r"timestamp\.json|[1-9][0-9]{0,9}\.(root|targets|releases|snapshot)\.json")

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


class MetadataInvalidError(ReleaseError):
    """Signed metadata is missing, malformed, or not signed by whom it must be."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(name, found, expected)
        self.name, self.found, self.expected = name, found, expected

    def __str__(self) -> str:
        return f"release metadata {self.name}: {self.found}; expected {self.expected}; nothing was changed"


@dataclass(frozen=True, kw_only=True)
class Created:
    """What `create_repository` left."""

    repository: Path
    keys: Path
    fresh: bool
    """False where the repository was there already; then no key was touched."""

    def notice(self) -> str:
        """What the operator must do now, for a person."""
        offline = self.keys / OFFLINE
        return (
            f"The root and targets keys are in {offline}. Move them to offline storage now, the three root keys to three places"
            f" (any two of them re-key the fleet), and delete the folder here. Nothing that runs needs them.{self._unsealed()}"
        )

    def _unsealed(self) -> str:
        names = [path.name for path in sorted(self.keys.rglob("*.pem")) if keyid_at(path)[1] == "not sealed"]
        return f" Not under a passphrase: {', '.join(names)}; `kdpipe keys init --help` says how they would be." if names else ""


def create_repository(keys_dir: Path, repo_dir: Path, *, now: datetime, unlock: Unlock = LOCKED) -> Created:
    """Make keys and first metadata, or finish what a crash interrupted. An existing repository is left alone.

    A key that is there already, or that a `NAME.uri` file names, is taken; the others are made, and sealed where `unlock` has
    their owner's passphrase. `now` is aware. The first root, `metadata/1.root.json`, is what enrolment files carry.
    """
    metadata = repo_dir / "metadata"
    if (metadata / "timestamp.json").exists():
        return Created(repository=repo_dir, keys=keys_dir, fresh=False)
    make_private_folder(keys_dir)
    make_private_folder(metadata)
    make_private_folder(repo_dir / "bundles")
    roots = [ensure_key(keys_dir / OFFLINE / f"{name}.pem", unlock) for name in ROOT_KEYS]
    targets_key = ensure_key(keys_dir / OFFLINE / "targets.pem", unlock)
    release_key = ensure_key(keys_dir / RELEASE / "release.pem", unlock)
    snapshot_key, timestamp_key, assignment_key = (
        ensure_key(keys_dir / ONLINE / f"{role}.pem", unlock) for role in ("snapshot", "timestamp", "assignment")
    )

    root = Root(expires=whole_second(now + ROOT_VALID), consistent_snapshot=True)
    for key in roots:
        root.add_key(key.public_key, "root")
    root.roles["root"].threshold = 2
    for role, key in (("targets", targets_key), ("snapshot", snapshot_key), ("timestamp", timestamp_key)):
        root.add_key(key.public_key, role)
    create_exclusive(metadata / "1.root.json", sign_metadata(root, *roots[:2]))

    targets = Targets(expires=whole_second(now + TARGETS_VALID))
    targets.delegations = Delegations(
        {},
        {
            ROLE_RELEASES: DelegatedRole(ROLE_RELEASES, [], 1, terminating=True, paths=["releases/*"]),
            ROLE_ASSIGNMENT: DelegatedRole(ROLE_ASSIGNMENT, [], 1, terminating=True, paths=["assignment/*"]),
        },
    )
    targets.add_key(release_key.public_key, ROLE_RELEASES)
    targets.add_key(assignment_key.public_key, ROLE_ASSIGNMENT)
    write_atomic(metadata / "1.targets.json", sign_metadata(targets, targets_key))

    releases = sign_metadata(Targets(expires=whole_second(now + RELEASES_VALID)), release_key)
    write_atomic(metadata / "1.releases.json", releases)
    write_atomic(keys_dir / RELEASE / "releases.json", releases)
    meta = {"targets.json": MetaFile(1), f"{ROLE_RELEASES}.json": MetaFile(1)}
    write_atomic(metadata / "1.snapshot.json", sign_snapshot(meta, snapshot_key, version=1, now=now))
    write_atomic(metadata / "timestamp.json", sign_timestamp(1, timestamp_key, version=1, now=now))
    return Created(repository=repo_dir, keys=keys_dir, fresh=True)


def root_bytes(repo_dir: Path) -> bytes:
    """The first root, for enrolment files. Raises MetadataInvalidError where there is no repository."""
    return read_metadata(repo_dir, "1.root.json")


def check_first_root(data: bytes, name: str) -> bytes:
    """The bytes, where they are a first root that its own keys have signed. Raises MetadataInvalidError."""
    root = parse_metadata(data, Root, name=name)
    try:
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    except UnsignedMetadataError as error:
        raise MetadataInvalidError(name, f"{error}"[:120], "a root that its own keys have signed") from error
    if root.signed.version != 1:
        raise MetadataInvalidError(name, f"root of version {root.signed.version}", "the first, 1.root.json")
    return data


def read_metadata(repo_dir: Path, name: str, max_bytes: int = MAX_METADATA_BYTES) -> bytes:
    """A metadata file by its TUF name; any other name is refused. Raises MetadataInvalidError."""
    if not METADATA_NAME.fullmatch(name):
        raise MetadataInvalidError(f"{name!r:.80}", "not a metadata name", "timestamp.json or NUMBER.ROLE.json")
    try:
        return read_bounded(repo_dir / "metadata" / name, max_bytes)
    except FileNotFoundError as error:
        raise MetadataInvalidError(name, "no such file", "a repository that `kdpipe run` created") from error


def parse_metadata(data: bytes, kind: type[S], *, name: str) -> Metadata[S]:
    """Parse metadata of one kind. Signatures are not checked here. Raises MetadataInvalidError."""
    try:
        metadata = Metadata[S].from_bytes(data)
    except RepositoryError as error:
        raise MetadataInvalidError(name, f"{error}"[:120], "TUF metadata") from error
    if not isinstance(metadata.signed, kind):
        raise MetadataInvalidError(name, f"metadata of type {metadata.signed.type}", f"type {kind.type}")
    return metadata


def sign_metadata(signed: S, *signers: Signer) -> bytes:
    """Raises KeyUnusableError where a key that lies elsewhere refuses to sign."""
    metadata = Metadata(signed)
    for signer in signers:
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as error:
            raise KeyUnusableError(signer.public_key.keyid[:8], f"{error.__cause__ or error}"[:200]) from error
    return metadata.to_bytes(JSONSerializer(compact=True))


def sign_snapshot(meta: dict[str, MetaFile], key: Signer, *, version: int, now: datetime) -> bytes:
    return sign_metadata(Snapshot(version=version, expires=whole_second(now + SNAPSHOT_VALID), meta=meta), key)


def sign_timestamp(snapshot_version: int, key: Signer, *, version: int, now: datetime) -> bytes:
    issued = {ISSUED: whole_second(now).isoformat()}
    timestamp = Timestamp(version, None, whole_second(now + TIMESTAMP_VALID), MetaFile(snapshot_version), issued)
    return sign_metadata(timestamp, key)


def issued_at(timestamp: Timestamp) -> datetime | None:
    """When a verified timestamp was signed, if it says so."""
    value = timestamp.unrecognized_fields.get(ISSUED)
    try:
        issued = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return issued if issued is not None and issued.tzinfo is not None else None


def whole_second(moment: datetime) -> datetime:
    """TUF times are whole UTC seconds."""
    return moment.astimezone(UTC).replace(microsecond=0)
