"""The labelling of a run's generations: one place that says with what."""

import os
from pathlib import Path
from typing import Protocol

from pipeline.config import RunFile
from pipeline.sources import SourceSpec
from workers.driver.folder import RunFolder, read_json
from workers.labelling import Labelling
from workers.labelling.labelling import OpenCrew, ray_crew


class Place(Protocol):
    """A run file with its folders: a request, or the context of a run that goes on."""

    @property
    def run(self) -> RunFile: ...
    @property
    def base(self) -> Path: ...
    @property
    def folder(self) -> RunFolder: ...


def store_url(place: Place) -> str:
    """Where the run's labels are kept."""
    return _store_url(place.run.labelling.store, base=place.base, folder=place.folder)


def store_url_in(folder: RunFolder) -> str:
    """Where the labels of the run that was started in `folder` are kept."""
    origin = read_json(folder.origin_file)
    return _store_url(origin["run"]["labelling"].get("store"), base=Path(origin["base"]), folder=folder)


def _store_url(named: str | None, *, base: Path, folder: RunFolder) -> str:
    if named is None:
        return str(folder.labels)
    return named if "://" in named else str(base / named)


def labelling_of(place: Place, generation: int, *, source: SourceSpec | None = None, open_crew: OpenCrew = ray_crew) -> Labelling:
    """Labelling of one generation, not yet started; from the run's source unless another is given."""
    run = place.run
    return Labelling(
        store_url=store_url(place),
        source=source or SourceSpec(section=run.stream, base=place.base),
        teacher=run.teacher,
        classes=run.classes,
        base=place.base,
        section=run.labelling,
        seed=run.seed,
        generation=generation,
        holder=f"driver pid {os.getpid()}",
        open_crew=open_crew,
    )
