"""Where a verb of keys or releases finds what was signed: in the folder of a run, or of `kdpipe keys init`."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.driver.folder import RunFolder


def repository(directory: Path) -> "RunFolder":
    """The folder, if it has a repository. Raises ConfigError where no run was started, MetadataInvalidError where one lost its own."""
    from pipeline.errors import ConfigError
    from pipeline.releases.repository import root_bytes
    from workers.driver.folder import RunFolder

    if directory.is_file():
        found = "a file; an operator's file is no run's folder"
        raise ConfigError(str(directory), found, "the DIR of a `kdpipe run`", "run this where that folder lies")
    folder = RunFolder(directory.resolve())
    if not folder.releases.exists():
        folder = RunFolder.existing(directory)
    root_bytes(folder.releases)
    return folder
