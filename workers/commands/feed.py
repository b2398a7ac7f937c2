"""`kdpipe feed`: release the next part of a recipe's stream into the watched folder."""

from pathlib import Path
from typing import Annotated

import typer


def feed(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the part; part 1 is there from the start.")],
) -> None:
    """Release part N of the recipe's stream; a run with --continuous picks it up."""
    from pipeline.recipes import release_feed
    from workers.driver.folder import RunFolder, read_json

    folder = RunFolder.existing(directory)
    base = Path(read_json(folder.origin_file)["base"])
    typer.echo(release_feed(base, number))
