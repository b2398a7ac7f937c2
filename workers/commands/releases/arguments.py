"""What the verbs of releases share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from workers.driver.folder import RunFolder

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run: what was signed is in DIR/releases.")]
Name = Annotated[
    str, typer.Argument(metavar="RELEASE", help="Its path, its name (small-000001), or the first letters of its digest, six at least.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]


def repository(directory: Path) -> "RunFolder":
    """The folder, if it has a repository. Raises MetadataInvalidError where there is none."""
    from pipeline.releases.repository import root_bytes
    from workers.driver.folder import RunFolder

    folder = RunFolder(directory.resolve())
    root_bytes(folder.releases)
    return folder
