"""Every release of a run: what was signed, what of it is published or yanked, where its bundle is, and what runs where.

Read without any key. The signed state beside the release key may be newer than what is published; both are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Targets

from pipeline.errors import FleetError
from pipeline.files import read_bounded
from pipeline.releases.keys import RELEASE
from pipeline.releases.published import read_published
from pipeline.releases.repository import MAX_METADATA_BYTES, parse_metadata
from pipeline.releases.signer import ReleaseUnknownError
from pipeline.releases.target import ReleaseTarget
from pipeline.releases.yanked import Yank, yanks_of
from workers.driver.folder import RunFolder, read_json
from workers.driver.publishing import operator_of
from workers.driver.records import student_files

MIN_DIGEST_LETTERS = 6
PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release. `target` is None where it was yanked: then its path, digest and number are all that is left."""

    path: str
    digest: str
    state: str
    target: ReleaseTarget | None
    yank: Yank | None = None
    bundle: Path | None = None
    """Where its file, or a copy of it, is, if it is here."""

    @property
    def is_published(self) -> bool:
        return self.state == PUBLISHED


@dataclass(frozen=True, kw_only=True)
class Running:
    """Of one population: how many devices there are, and how many run which digest."""

    devices: int
    by_digest: Mapping[str, int]


def releases_of(folder: RunFolder) -> list[Release]:
    """Oldest number first, by student. Raises MetadataInvalidError."""
    published = read_published(folder.releases)
    signed = _signed(folder) or published.releases.signed
    targets = {path: ReleaseTarget.from_tuf(target) for path, target in signed.targets.items()}
    found = [
        Release(
            path=path,
            digest=target.digest,
            state=_state(folder, target, path in published.release_targets),
            target=target,
            bundle=bundle_of(folder, target.digest),
        )
        for path, target in targets.items()
    ]
    for path, yank in yanks_of(signed).items():
        state = "yanked" if path in published.yanks else "yanked, not published"
        found.append(Release(path=path, digest=yank.digest, state=state, target=None, yank=yank, bundle=bundle_of(folder, yank.digest)))
    return sorted(found, key=lambda release: release.path)


def _state(folder: RunFolder, target: ReleaseTarget, is_named: bool) -> str:
    """Published metadata names every signed release; the bundle follows when it is first rolled out."""
    if not is_named:
        return "signed, not published"
    made = student_files(folder, target.generation, target.student).root
    rolled_out = not made.is_dir() or any(made.glob("rollout-*.json"))
    return PUBLISHED if rolled_out or (folder.releases / "bundles" / target.digest).is_file() else "signed, never rolled out"


def find(releases: Sequence[Release], name: str) -> Release:
    """The one of this path, name (`small-000001`) or beginning of a digest. Raises ReleaseUnknownError."""
    names = {name, f"releases/{name}", f"releases/{name}.kdpb"}
    found = [release for release in releases if release.path in names]
    if not found and len(name) >= MIN_DIGEST_LETTERS:
        found = [release for release in releases if release.digest.startswith(name)]
    if len(found) != 1:
        raise ReleaseUnknownError(name, tuple(release.path for release in releases))
    return found[0]


def yank_of(folder: RunFolder, path: str) -> Yank | None:
    """Why the release of this path was taken back, if it was; None, too, where nothing was signed yet."""
    signed = _signed(folder)
    return yanks_of(signed).get(path) if signed else None


def running_of(folder: RunFolder) -> dict[str, Running] | None:
    """Population -> what its devices run, as the orchestrator says; None where none answers."""
    try:
        with operator_of(folder) as operator:
            devices = [device for device in operator.get_fleet().devices if not device.is_revoked]
    except (FleetError, FileNotFoundError):
        return None
    found: dict[str, Running] = {}
    for population in sorted({device.population for device in devices}):
        digests = [device.running_digest for device in devices if device.population == population]
        found[population] = Running(devices=len(digests), by_digest={digest: digests.count(digest) for digest in set(digests) if digest})
    return found


def bundle_of(folder: RunFolder, digest: str) -> Path | None:
    """The bundle's file: published, or still where it was made."""
    published = folder.releases / "bundles" / digest
    if published.is_file():
        return published
    for record in sorted((folder.root / "generations").glob("[0-9]*/students/*/release.json")):
        if read_json(record)["digest"] == digest and (record.parent / "bundle.kdpb").is_file():
            return record.parent / "bundle.kdpb"
    return None


def _signed(folder: RunFolder) -> Targets | None:
    """The newest that the release key signed; None where its state is not here."""
    try:
        data = read_bounded(folder.keys / RELEASE / "releases.json", MAX_METADATA_BYTES)
    except FileNotFoundError:
        return None
    return parse_metadata(data, Targets, name="releases.json").signed
