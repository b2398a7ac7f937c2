"""`kdpipe feed`: release the next part of a recipe's stream into the watched folder."""

from pathlib import Path
from typing import Annotated, Any

import typer


def feed(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the part; part 1 is there from the start.")],
) -> None:
    """Release part N of the recipe's stream; a run with --continuous picks it up."""
    from pipeline.recipes import NoFeedsError, release_feed
    from workers.driver.folder import RunFolder, read_json

    folder = RunFolder.existing(directory)
    origin = read_json(folder.origin_file)
    base, run = Path(origin["base"]), origin["run"]
    if run.get("prepare") is None:
        raise NoFeedsError(str(directory), _place(base, run["stream"]))
    typer.echo(release_feed(base, number))


def _place(base: Path, stream: dict[str, Any]) -> str:
    """Where a run's own samples come from, for a person."""
    return str(base / stream["path"]) if stream["path"] else stream["use"]
