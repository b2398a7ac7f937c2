"""Bringing a release's bundle here by the fewest bytes: a delta to what the device has, the packed bundle, or all of it.

The shortest file that fits is tried first, the whole bundle last; what was refused on the way is told in the report. A download that began
whole goes on whole. Nothing here is trusted: a delta has the digest that was signed for it, what it makes the digest that was signed
for the bundle, and its base is the bundle of a verified slot, made again to the byte.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import KdpipeError
from pipeline.files import read_bounded, write_atomic
from pipeline.releases.bundle import rebuild_bundle
from pipeline.releases.delta import MAX_DELTA_BUNDLE_BYTES, apply_delta
from pipeline.releases.target import DeltaFile, ReleaseTarget
from pipeline.rollout.device import Way
from pipeline.rollout.slots import SlotCorruptError, Slots
from workers.edge.download import Fetch, download, part_path, verify
from workers.edge.fleet_client import FleetRefusedError, FleetUnreachableError


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """How a bundle came."""

    way: Way
    says: str
    """For the report."""
    refused: int
    """Shorter ways that were tried and led nowhere."""


def fetch_bundle(
    release: ReleaseTarget, *, folder: Path, fetch: Fetch, slots: Slots, held: Collection[str], on_bytes: Callable[[int], None]
) -> Fetched:
    """Bring the release's `.part` to its full length, durable; `held` are digests of releases in slots. Raises what `download` raises."""
    part, refused = part_path(folder, release.digest), []
    if not part.exists():
        for delta in _shortest_first(release, held):
            try:
                _follow(delta, release, folder=folder, fetch=fetch, slots=slots, on_bytes=on_bytes)
            except FleetUnreachableError:
                raise
            except KdpipeError as error:
                if isinstance(error, FleetRefusedError) and error.status != "NOT_FOUND":
                    raise
                part_path(folder, delta.digest).unlink(missing_ok=True)
                refused.append(f"{_name(delta)} refused: {error}")
            else:
                says = f"{_name(delta)}, {delta.length} bytes for {release.length}"
                return Fetched(way="delta" if delta.source else "packed", says="; ".join([says, *refused]), refused=len(refused))
    download(folder, fetch, digest=release.digest, length=release.length, on_bytes=on_bytes)
    return Fetched(way="whole", says="; ".join([f"whole, {release.length} bytes", *refused]), refused=len(refused))


def _shortest_first(release: ReleaseTarget, held: Collection[str]) -> list[DeltaFile]:
    if release.length > MAX_DELTA_BUNDLE_BYTES:
        return []
    usable = [delta for delta in release.deltas if (not delta.source or delta.source in held) and delta.length < release.length]
    return sorted(usable, key=lambda delta: (delta.length, delta.digest))


def _follow(delta: DeltaFile, release: ReleaseTarget, *, folder: Path, fetch: Fetch, slots: Slots, on_bytes: Callable[[int], None]) -> None:
    """The bundle by this delta. A crash keeps what arrived of the delta, or leaves the whole bundle."""
    base = _base(slots, delta.source) if delta.source else b""
    path = download(folder, fetch, digest=delta.digest, length=delta.length, on_bytes=on_bytes)
    verify(path, digest=delta.digest, length=delta.length)
    made = apply_delta(read_bounded(path, delta.length), base, sha256=release.digest, length=release.length)
    write_atomic(part_path(folder, release.digest), made)
    path.unlink()


def _base(slots: Slots, digest: str) -> bytes:
    slot = slots.open(digest)
    if slot.size_bytes > MAX_DELTA_BUNDLE_BYTES:
        raise SlotCorruptError(digest, f"{slot.size_bytes} bytes are more than a delta takes")
    base = rebuild_bundle(slot.folder)
    if hashlib.sha256(base).hexdigest() != digest:
        raise SlotCorruptError(digest, "its bundle cannot be made again to the byte")
    return base


def _name(delta: DeltaFile) -> str:
    return f"delta from {delta.source[:12]}" if delta.source else "packed bundle"
