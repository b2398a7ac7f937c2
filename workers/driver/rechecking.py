"""Releases checked again from the bytes on: digest, bundle, deltas, and the golden samples in a device's own model process.

Of a published release the files that devices fetch are checked, never a copy of them.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.errors import KdpipeError
from pipeline.releases.bundle import digest_file
from pipeline.releases.golden import golden_misses
from pipeline.releases.published import Published
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout.slots import Slots
from workers.driver.catalogue import Release
from workers.edge.model_process import ModelProcess
from workers.edge.shadow import run_model


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One release; `problem` is empty where it is sound."""

    path: str
    digest: str
    golden: int
    """Golden samples that were answered within tolerance."""
    problem: str


def expired(published: Published, *, now: datetime) -> list[str]:
    """Roles whose metadata no device accepts any more, a line each."""
    return [f"{role} metadata expired at {when.isoformat()}" for role, when in published.expiries.items() if when <= now]


def check(releases: Sequence[Release], bundles: Path) -> Iterator[Checked]:
    """Each release that devices may be given, one after the other; `bundles` holds what is published."""
    for release in releases:
        if release.target is None:
            continue
        problems, golden = [], 0
        try:
            golden = _check(release, bundles)
        except (KdpipeError, _NotSoundError) as error:
            problems.append(str(error))
        if release.is_published:
            problems += _bad_deltas(release.target, bundles)
        yield Checked(path=release.path, digest=release.digest, golden=golden, problem="; ".join(problems))


class _NotSoundError(Exception):
    """Why a release is not what it should be."""


def _check(release: Release, bundles: Path) -> int:
    target = release.target
    assert target is not None
    path = bundles / target.digest if release.is_published else release.bundle
    if path is None or not path.is_file():
        copy = f"; a copy lies at {release.bundle}" if release.bundle else ""
        raise _NotSoundError(f"missing: releases/bundles/{target.digest} is not here{copy}")
    digest, length = digest_file(path)
    if (digest, length) != (target.digest, target.length):
        raise _NotSoundError(f"the bundle has {length} bytes, sha256 {digest[:12]}; signed {target.length} bytes, {target.digest[:12]}")
    with tempfile.TemporaryDirectory(prefix="kdpipe-verify-") as folder:
        slot = Slots(Path(folder)).stage(path, digest)
        manifest = slot.manifest
        if (manifest.student, manifest.release) != (target.student, target.release):
            raise _NotSoundError(f"the manifest speaks of {manifest.student} {manifest.release}")
        model = ModelProcess.start(slot)
        try:
            found = run_model(model, [sample.input for sample in slot.golden])
        finally:
            model.close()
        misses = golden_misses(slot.golden, found.probabilities_BK, manifest.tolerance)
        if misses is not None:
            raise _NotSoundError(misses)
        return len(slot.golden)


def _bad_deltas(target: ReleaseTarget, bundles: Path) -> list[str]:
    """A line for each shorter way to the bundle that is not what was signed."""
    found = []
    for delta in target.deltas:
        name = f"delta from {delta.source[:12]}" if delta.source else "packed bundle"
        path = bundles / delta.digest
        if not path.is_file():
            found.append(f"missing: {name}, releases/bundles/{delta.digest}, is not here")
            continue
        digest, length = digest_file(path)
        if (digest, length) != (delta.digest, delta.length):
            found.append(f"{name} has {length} bytes, sha256 {digest[:12]}; signed {delta.length} bytes, {delta.digest[:12]}")
    return found
