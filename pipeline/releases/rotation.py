"""A new key for a role, and what must be signed because of it.

    root, targets, snapshot, timestamp   a new root, signed by enough keys of the old root and of the new one
    release, assignment                  new targets metadata, signed by the targets key
    always                               a new snapshot and timestamp

Pure: takes what is published and the signers at hand, returns the files to write. Devices follow the chain of roots, so nobody enrols
anew. A new root also takes back what online keys said before it: devices forget the time that a stolen timestamp key signed
(`pipeline.rollout.device`), and drop a timestamp and a snapshot whose keys are out, however high their versions.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from securesystemslib.signer import Signer
from tuf.api.metadata import MetaFile, Root, Targets

from pipeline.errors import ReleaseError
from pipeline.releases.journal import METADATA
from pipeline.releases.published import Published
from pipeline.releases.repository import (
    RELEASES_VALID,
    ROLE_ASSIGNMENT,
    ROLE_RELEASES,
    ROOT_VALID,
    TARGETS_VALID,
    sign_metadata,
    sign_snapshot,
    sign_timestamp,
    whole_second,
)

ROOT_ROLES = ("root", "targets", "snapshot", "timestamp")
"""Roles whose keys root metadata lists."""
TARGETS_ROLES = {"release": ROLE_RELEASES, "assignment": ROLE_ASSIGNMENT}
"""Roles whose keys targets metadata lists -> their names there."""
ROLES = (*ROOT_ROLES, *TARGETS_ROLES)

T = TypeVar("T", Root, Targets)


class SignaturesMissingError(ReleaseError):
    """Too few of a role's keys are at hand to sign for it."""

    def __init__(self, role: str, have: tuple[str, ...], threshold: int, keys: tuple[str, ...]) -> None:
        super().__init__(role, have, threshold, keys)
        self.role, self.have, self.threshold, self.keys = role, have, threshold, keys

    def __str__(self) -> str:
        return (
            f"{self.role} metadata: {len(self.have)} of its keys at hand ({_short(self.have)}); expected {self.threshold} of "
            f"{_short(self.keys)}; name their files with --key, each in an option of its own"
        )


class RotationUnclearError(ReleaseError):
    """The role has several keys, and which one goes was not said, or is none of them."""

    def __init__(self, role: str, found: str, keys: tuple[str, ...]) -> None:
        super().__init__(role, found, keys)
        self.role, self.found, self.keys = role, found, keys

    def __str__(self) -> str:
        return f"{self.role}: {self.found}; expected the id of one key to replace: {_short(self.keys)}; name it with --replace"


@dataclass(frozen=True, kw_only=True)
class Hands:
    """Signers at hand."""

    offline: Sequence[Signer]
    """Keys that a person brought: of root, of targets."""
    snapshot: Signer
    timestamp: Signer
    new: Mapping[str, Signer]
    """Role -> its new key."""


def rotate(
    published: Published,
    releases: Targets,
    hands: Hands,
    *,
    now: datetime,
    replace: str = "",
    renew: Iterable[str] = (),
) -> dict[str, bytes]:
    """Metadata files to write, by name, `timestamp.json` last, for the roles in `hands.new` and those only to be signed for another term.

    `releases` is the newest that the release key signed; `replace` the beginning of the id of the root key that goes. Raises
    SignaturesMissingError, RotationUnclearError, KeyUnusableError.
    """
    new, renew = hands.new, set(renew)
    files: dict[str, bytes] = {}
    root = deepcopy(published.root.signed)
    meta = dict(published.snapshot.signed.meta)
    if new.keys() & set(ROOT_ROLES) or "root" in renew:
        _change_root(root, new, replace)
        root.version += 1
        root.expires = whole_second(now + ROOT_VALID)
        signers = [*hands.offline, *([new["root"]] if "root" in new else [])]
        files[f"{root.version}.root.json"] = _signed("root", root, [published.root.signed, root], signers)
    targets = deepcopy(published.targets.signed)
    if new.keys() & {"targets", *TARGETS_ROLES} or "targets" in renew:
        for role in new.keys() & TARGETS_ROLES.keys():
            _replace_all(targets, TARGETS_ROLES[role], new[role])
        targets.version += 1
        targets.expires = whole_second(now + TARGETS_VALID)
        signers = [*hands.offline, *([new["targets"]] if "targets" in new else [])]
        files[f"{targets.version}.targets.json"] = _signed("targets", targets, [root], signers)
        meta["targets.json"] = MetaFile(targets.version)
    if "release" in new:
        releases = deepcopy(releases)
        releases.version = max(releases.version, published.releases.signed.version) + 1
        releases.expires = whole_second(now + RELEASES_VALID)
        files[f"{releases.version}.{ROLE_RELEASES}.json"] = sign_metadata(releases, new["release"])
        meta[f"{ROLE_RELEASES}.json"] = MetaFile(releases.version)
    for role, signer in (("snapshot", hands.snapshot), ("timestamp", hands.timestamp)):
        if signer.public_key.keyid not in root.roles[role].keyids:
            raise SignaturesMissingError(role, (), 1, tuple(root.roles[role].keyids))
    version = published.snapshot.signed.version + 1
    files[f"{version}.snapshot.json"] = sign_snapshot(meta, new.get("snapshot", hands.snapshot), version=version, now=now)
    files["timestamp.json"] = sign_timestamp(
        version, new.get("timestamp", hands.timestamp), version=published.timestamp.signed.version + 1, now=now
    )
    return {f"{METADATA}/{name}": data for name, data in files.items()}


def root_key_to_replace(root: Root, replace: str) -> str:
    """The id that `replace` begins. Raises RotationUnclearError."""
    keys = tuple(sorted(root.roles["root"].keyids))
    found = [keyid for keyid in keys if replace and keyid.startswith(replace)]
    if len(found) != 1:
        raise RotationUnclearError("root", f"{replace!r:.80} names {len(found)} of {len(keys)} keys", keys)
    return found[0]


def _change_root(root: Root, new: Mapping[str, Signer], replace: str) -> None:
    for role in new.keys() & set(ROOT_ROLES):
        if role == "root":
            root.revoke_key(root_key_to_replace(root, replace), "root")
            root.add_key(_public(new[role]), "root")
        else:
            _replace_all(root, role, new[role])


def _replace_all(signed: Root | Targets, role: str, new: Signer) -> None:
    for keyid in list(_keyids(signed, role)):
        signed.revoke_key(keyid, role)
    signed.add_key(_public(new), role)


def _keyids(signed: Root | Targets, role: str) -> list[str]:
    if isinstance(signed, Root):
        return list(signed.roles[role].keyids)
    assert signed.delegations is not None
    return list((signed.delegations.roles or {})[role].keyids)


def _public(signer: Signer) -> Any:
    return signer.public_key


def _signed(role: str, signed: T, judges: Sequence[Root], signers: Sequence[Signer]) -> bytes:
    """Signed by those of the signers that any of the judges lists; each judge must find enough."""
    listed = {keyid for judge in judges for keyid in judge.roles[role].keyids}
    able = {signer.public_key.keyid: signer for signer in signers if signer.public_key.keyid in listed}
    for judge in judges:
        keys, threshold = judge.roles[role].keyids, judge.roles[role].threshold
        have = tuple(sorted(able.keys() & set(keys)))
        if len(have) < threshold:
            raise SignaturesMissingError(role, have, threshold, tuple(sorted(keys)))
    return sign_metadata(signed, *able.values())


def _short(keyids: Sequence[str]) -> str:
    return ", ".join(keyid[:8] for keyid in keyids) or "none"
