"""What the verbs of `kdpipe labels` have in common on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.labels.store import Store

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]


def open_labels(directory: Path) -> "Store":
    """The label store of the run in this folder. Raises ConfigError where no run was started."""
    from pipeline.labels.store import open_store
    from workers.driver.folder import RunFolder
    from workers.driver.labels import store_url_in

    return open_store(store_url_in(RunFolder.existing(directory)))


def warn(text: str) -> None:
    """Say it where no script reads."""
    typer.echo(text, err=True)
