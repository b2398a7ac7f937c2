"""Signing the releases for another term before theirs ends: expired ones would keep new devices from installing.

Looked at as often as one likes; what is signed is published again until the orchestrator has it, also after a crash between the two.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.files import read_bounded
from pipeline.releases.keys import LOCKED, RELEASE, Unlock
from pipeline.releases.repository import MAX_METADATA_BYTES, RELEASES_VALID
from pipeline.releases.signer import ReleaseSigner

LOOK_EVERY = timedelta(hours=1)


class Renewal:
    """Keeps one repository's releases within their term. `publish` takes signed metadata; the same again changes nothing."""

    def __init__(self, keys: Path, publish: Callable[[bytes], object], *, clock: Callable[[], datetime], unlock: Unlock = LOCKED) -> None:
        self._keys, self._publish, self._clock, self._unlock = keys, publish, clock, unlock
        self._looked: datetime | None = None
        self._published = False

    def look(self) -> None:
        """Renew where less than half of the term is left. Raises what `publish` raises; the next look, an hour later, tries again."""
        now = self._clock()
        if self._looked is not None and abs(now - self._looked) < LOOK_EVERY:
            return
        self._looked = now
        signer = ReleaseSigner.open(self._keys, self._unlock)
        if not signer.targets:
            return
        if signer.expires - now < RELEASES_VALID / 2:
            self._published = False
            signer.renew(now=now)
        if not self._published:
            self._publish(signed_releases(self._keys))
            self._published = True


def signed_releases(keys: Path) -> bytes:
    """The release role's newest metadata, as it was signed."""
    return read_bounded(keys / RELEASE / "releases.json", MAX_METADATA_BYTES)
