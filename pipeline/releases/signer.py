"""The release key at work: adds releases to the delegated role `releases`, and takes them back.

Owned by the driver (or a KMS behind the same interface), never by the orchestrator. The newest signed metadata is kept beside the key,
so that two different contents never get the same version; each change is made under a lock, on the newest state, so that a person
may yank while a driver signs. Adding the same release again gives the same bytes: a driver killed between signing and publishing
just does both again.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Targets

from pipeline.errors import ReleaseError
from pipeline.files import read_bounded, write_atomic
from pipeline.releases.keys import LOCKED, RELEASE, Unlock, load_key
from pipeline.releases.repository import (
    MAX_METADATA_BYTES,
    RELEASES_VALID,
    MetadataInvalidError,
    parse_metadata,
    sign_metadata,
    whole_second,
)
from pipeline.releases.target import ReleaseTarget
from pipeline.releases.yanked import Yank, write_yank, yanks_of

RELEASES_WITH_DELTAS = 3
"""Of each student, the newest."""
RELEASES_KEPT = 128
"""Of each student, the newest: what can still be rolled out, or gone back to. About 300 bytes each, and a device reads all of them at each
release; a device that runs an older one goes on with it."""


class ReleaseExistsError(ReleaseError):
    """A release with this path was signed before, with other bytes."""

    def __init__(self, path: str, signed: str, found: str) -> None:
        super().__init__(path, signed, found)
        self.path, self.signed, self.found = path, signed, found

    def __str__(self) -> str:
        return f"release {self.path} is signed with {self.signed}, found {self.found[:12]}; expected a new number for new bytes"


class ReleaseUnknownError(ReleaseError):
    """No release of this name was ever signed here."""

    def __init__(self, path: str, known: tuple[str, ...]) -> None:
        super().__init__(path, known)
        self.path, self.known = path, known

    def __str__(self) -> str:
        known = ", ".join(self.known[-5:]) or "none yet"
        return f"{self.path!r:.120}: no such release; expected one that was signed ({known}); `kdpipe releases ls DIR` lists them all"


class ReleaseSigner:
    """Signs releases."""

    def __init__(self, *, key: Signer, state: Path) -> None:
        self._key, self._state = key, state
        self._metadata = _load(state)

    @classmethod
    def open(cls, keys_dir: Path, unlock: Unlock = LOCKED) -> "ReleaseSigner":
        """The signer of the repository whose keys are in `keys_dir`. Raises MetadataInvalidError and what `load_key` raises."""
        folder = keys_dir / RELEASE
        return cls(key=load_key(folder / "release.pem", unlock), state=folder / "releases.json")

    @property
    def targets(self) -> dict[str, ReleaseTarget]:
        """Everything signed so far, by path."""
        return {path: ReleaseTarget.from_tuf(target) for path, target in self._metadata.signed.targets.items()}

    @property
    def yanks(self) -> dict[str, Yank]:
        """Everything that was taken back, by path."""
        return yanks_of(self._metadata.signed)

    @property
    def expires(self) -> datetime:
        """When devices stop installing what is signed now, unless it is renewed."""
        return self._metadata.signed.expires

    def next_release(self, student: str) -> int:
        """The next free release number of a student."""
        signed = [*self.targets, *self.yanks]
        numbers = [int(path.rpartition("-")[2].partition(".")[0]) for path in signed if path.startswith(f"releases/{student}-")]
        return max(numbers, default=0) + 1

    def add(self, target: ReleaseTarget, *, now: datetime) -> bytes:
        """Sign one more release; returns the role's whole metadata for `OnlineRepository.publish`. One that is signed keeps its deltas.

        The metadata is durable before it is returned. Raises ReleaseExistsError, also for one that was yanked.
        """
        with self._newest():
            if target.path in self.yanks:
                raise ReleaseExistsError(target.path, f"{self.yanks[target.path].digest[:12]}, yanked", target.digest)
            known = self.targets.get(target.path)
            kept = [other.release for other in self.targets.values() if other.student == target.student]
            if known is None and len(kept) >= RELEASES_KEPT and target.release < min(kept):
                raise ReleaseExistsError(target.path, f"all numbers below {min(kept)}, which are no longer listed", target.digest)
            if known is not None and replace(known, deltas=()) != replace(target, deltas=()):
                raise ReleaseExistsError(target.path, known.digest[:12], target.digest)
            fresh = self._metadata.signed.expires - now > RELEASES_VALID / 2
            if known is not None and fresh:
                return read_bounded(self._state, MAX_METADATA_BYTES)
            self._metadata.signed.targets[target.path] = (known or target).to_tuf()
            self._forget_old(target.student)
            return self._sign(now)

    def renew(self, *, now: datetime) -> bytes:
        """Sign the same releases for another term."""
        with self._newest():
            return self._sign(now)

    def yank(self, path: str, *, reason: str, now: datetime) -> bytes:
        """Take a release back, for ever; returns the metadata as `add` does. Again, it changes nothing. Raises ReleaseUnknownError."""
        with self._newest():
            if path in self.yanks:
                return read_bounded(self._state, MAX_METADATA_BYTES)
            target = self.targets.get(path)
            if target is None:
                raise ReleaseUnknownError(path, tuple(sorted(self.targets)))
            write_yank(self._metadata.signed, path, Yank(digest=target.digest, reason=reason, at_unix_s=int(now.timestamp())))
            return self._sign(now)

    @contextlib.contextmanager
    def _newest(self) -> Iterator[None]:
        """Alone with the newest state, until the end."""
        descriptor = os.open(self._state.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._metadata = _load(self._state)
            yield
        finally:
            os.close(descriptor)

    def _forget_old(self, student: str) -> None:
        """Releases that no device will come to any more, and deltas to those that few will: every device reads all of this metadata."""
        releases = sorted((t for t in self.targets.values() if t.student == student), key=lambda t: t.release)
        for old in releases[:-RELEASES_WITH_DELTAS]:
            self._metadata.signed.targets[old.path] = replace(old, deltas=()).to_tuf()
        for old in releases[:-RELEASES_KEPT]:
            del self._metadata.signed.targets[old.path]

    def _sign(self, now: datetime) -> bytes:
        signed = self._metadata.signed
        signed.version += 1
        signed.expires = whole_second(now + RELEASES_VALID)
        data = sign_metadata(signed, self._key)
        try:
            write_atomic(self._state, data)
        finally:
            self._metadata = _load(self._state)
        return data


def _load(state: Path) -> Metadata[Targets]:
    try:
        data = read_bounded(state, MAX_METADATA_BYTES)
    except FileNotFoundError as error:
        raise MetadataInvalidError(str(state), "no such file", "the release key's last signed metadata") from error
    return parse_metadata(data, Targets, name=str(state))
