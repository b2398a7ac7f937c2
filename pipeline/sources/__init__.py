"""Where samples come from: files, watched folders and the user's own callables, behind one `Source` protocol."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.config import SourceSection
from pipeline.errors import ConfigError
from pipeline.sources.callables import open_callable
from pipeline.sources.files import open_files
from pipeline.sources.formats import HELD_BYTES
from pipeline.sources.source import SCHEMAS, BatchSource, GrowingSource, Part, Source

__all__ = ["HELD_BYTES", "SCHEMAS", "SOURCES", "BatchSource", "GrowingSource", "Part", "Source", "SourceSpec", "open_source"]


def _open_images(section: SourceSection, base: Path) -> Source:
    if (section.path or "").startswith(REMOTE):
        raise ConfigError(
            "path of a source of images",
            f"found {section.path!r}",
            "a folder on disk",
            "copy the images to one that all nodes see, or keep them as rows of Parquet files there",
        )
    from pipeline.sources.images import open_images  # other sources need no imaging library

    return open_images(section, base)


def _open_files(section: SourceSection, base: Path) -> Source:
    if not (section.path or "").startswith(REMOTE):
        return open_files(section, base)
    from pipeline.sources.remote import open_remote  # files on disk need no object store

    return open_remote(section)


REMOTE = ("s3://", "gs://", "az://")
SOURCES: Mapping[str, Callable[[SourceSection, Path], Source]] = {"files": _open_files, "images": _open_images}
"""Sources by bare name; anything else is the user's `module:callable`."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """What is sent to another process instead of an open source."""

    section: SourceSection
    base: Path

    def open(self) -> Source:
        return open_source(self.section, base=self.base)


def open_source(section: SourceSection, *, base: Path) -> Source:
    """Open the source that a section of the run file describes; paths and modules are relative to `base`."""
    return (SOURCES.get(section.use) or partial(open_callable, shipped=SOURCES))(section, base)
