"""Deltas of a release about to be signed: from the student's last few releases, and from nothing.

Files go to `deltas/DIGEST` beside the bundle. A delta that would not spare devices anything is left out. Nothing here is random, so a
killed driver makes the same files again; a release that is signed keeps the deltas that were signed with it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.files import make_private_folder, read_bounded, write_atomic
from pipeline.releases.bundle import BundleFile
from pipeline.releases.delta import MAX_DELTA_BUNDLE_BYTES, make_delta
from pipeline.releases.target import DeltaFile, ReleaseTarget


def predecessors(targets: Iterable[ReleaseTarget], *, student: str, release: int, most: int) -> list[ReleaseTarget]:
    """The releases that devices are likely to come from, newest first."""
    before = (target for target in targets if target.student == student and target.release < release)
    return sorted(before, key=lambda target: -target.release)[:most]


def write_deltas(folder: Path, bundle: BundleFile, bases: Mapping[str, Path]) -> tuple[DeltaFile, ...]:
    """Deltas to a bundle: from each of `bases` (digest -> its bundle), and the bundle packed. None for a bundle that is too large."""
    if bundle.length > MAX_DELTA_BUNDLE_BYTES:
        return ()
    new = read_bounded(bundle.path, MAX_DELTA_BUNDLE_BYTES)
    fits = {source: path for source, path in bases.items() if path.is_file() and path.stat().st_size <= MAX_DELTA_BUNDLE_BYTES}
    packed = make_delta(b"", new)
    made = {"": packed} if len(packed) < len(new) else {}
    for source, path in fits.items():
        delta = make_delta(read_bounded(path, MAX_DELTA_BUNDLE_BYTES), new)
        if len(delta) < min(len(packed), len(new)):
            made[source] = delta
    return tuple(_write(folder, source, delta) for source, delta in made.items())


def _write(folder: Path, source: str, data: bytes) -> DeltaFile:
    digest = hashlib.sha256(data).hexdigest()
    write_atomic(make_private_folder(folder) / digest, data)
    return DeltaFile(source=source, digest=digest, length=len(data))
