"""Releases checked again from the bytes on: digest, bundle, and the golden samples in a device's own model process."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.errors import KdpipeError
from pipeline.releases.bundle import digest_file
from pipeline.releases.golden import golden_misses
from pipeline.releases.published import Published
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


def check(releases: Sequence[Release]) -> Iterator[Checked]:
    """Each release that devices may be given, one after the other."""
    for release in releases:
        if release.target is None:
            continue
        problem, golden = "", 0
        try:
            golden = _check(release)
        except (KdpipeError, _NotSoundError) as error:
            problem = str(error)
        yield Checked(path=release.path, digest=release.digest, golden=golden, problem=problem)


class _NotSoundError(Exception):
    """Why a release is not what it should be."""


def _check(release: Release) -> int:
    target, path = release.target, release.bundle
    assert target is not None
    if path is None:
        raise _NotSoundError("its bundle is not here")
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
