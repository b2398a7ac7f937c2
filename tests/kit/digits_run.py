"""A life of `kdpipe run digits` that many tests look at: stopped while it learns, then gone on with to its end, as a user's might be."""

import ipaddress
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.kit.runs import BackgroundRun, committed, kdpipe, listening, stage_of

LEARNING = "generation 1: label and train"


@dataclass(frozen=True, kw_only=True)
class StoppedRun:
    """What was seen of a run that `kdpipe stop` ended as its first labels were there. `home` is the folder it was started in."""

    home: Path
    code: int
    stage: str
    output: str
    stop_said: str
    left_alive: list[psutil.Process]
    heard: list[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]
    labels: list[str]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that ended well."""

    home: Path
    output: str

    @property
    def folder(self) -> Path:
        return folder_of(self.home)

    def copy(self, home: Path) -> Path:
        """The same in another folder, to go on with there."""
        shutil.copytree(self.home, home, symlinks=True)
        return home


def folder_of(home: Path) -> Path:
    return home / "runs" / "digits"


def stop_as_it_learns(home: Path) -> StoppedRun:
    folder = folder_of(home)
    with BackgroundRun("digits", cwd=home, folder=folder) as run:
        run.wait_for_stage(LEARNING)
        run.wait_until(lambda: bool(committed(folder)), "labels are there")
        heard = listening(run.tree())
        stop = kdpipe("stop", folder, cwd=home)
        code, alive = run.watch_end()
    return StoppedRun(
        home=home,
        code=code,
        stage=stage_of(folder),
        output=run.output,
        stop_said=stop.stdout,
        left_alive=alive,
        heard=heard,
        labels=committed(folder),
    )


def finish(home: Path) -> FinishedRun:
    ended = kdpipe("run", "digits", cwd=home)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return FinishedRun(home=home, output=ended.stdout)
