"""Which version of a student its successor starts from, and which one it must beat, where a release may have been taken back.

A release that was taken back teaches nothing more: training starts from the latest version that was not. The gate compares with what
devices run: that is the same version, unless a device still runs the one that was taken back; then nothing worse than that may take
its place either. Read from the folder and, only where the latest version was taken back, from the orchestrator if one answers.
"""

from dataclasses import dataclass

from pipeline.releases.yanked import Yank
from workers.driver.catalogue import running_of, yank_of
from workers.driver.folder import RunFolder, read_json
from workers.driver.records import Incumbent, incumbent_of, versions_of


@dataclass(frozen=True, kw_only=True)
class TakenBack:
    """The latest version of a student, whose release was yanked."""

    version: Incumbent
    yank: Yank

    @property
    def says(self) -> str:
        return f"generation {self.version.generation} was taken back ({self.yank.reason})"


def start_of(folder: RunFolder, student: str) -> Incumbent | None:
    """The version that training starts from: the latest that passed, was not halted, and was not taken back."""
    return next((version for version in versions_of(folder, student) if _yank(folder, version) is None), None)


def standing_of(folder: RunFolder, student: str) -> Incumbent | None:
    """The version that devices run and a successor must beat."""
    latest = taken_back(folder, student)
    if latest is None:
        return incumbent_of(folder, student)
    return latest.version if _runs(folder, latest.yank.digest) else start_of(folder, student)


def taken_back(folder: RunFolder, student: str) -> TakenBack | None:
    """The latest version, where its release was taken back."""
    latest = incumbent_of(folder, student)
    yank = _yank(folder, latest) if latest else None
    return TakenBack(version=latest, yank=yank) if latest and yank else None


def what_next(folder: RunFolder, student: str, back: TakenBack) -> str:
    """What becomes of a release that was taken back while nothing trains: in the plan and at a run's end alike."""
    start = start_of(folder, student)
    how = f"from generation {start.generation}" if start else "afresh"
    older = "; `kdpipe rollout start` brings an older release" if start else ""
    return f"{back.says}: devices that run it go on; the next one trains once there are new samples, {how}{older}"


def digest_of(version: Incumbent | None) -> str | None:
    """Of the version's bundle."""
    release = read_json(version.files.release) if version else None
    return release["digest"] if release else None


def _yank(folder: RunFolder, version: Incumbent) -> Yank | None:
    release = read_json(version.files.release)
    return yank_of(folder, release["target"]) if release else None


def _runs(folder: RunFolder, digest: str) -> bool:
    """Whether a device runs it, as the orchestrator says."""
    return any(digest in population.by_digest for population in (running_of(folder) or {}).values())
