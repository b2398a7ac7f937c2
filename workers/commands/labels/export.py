"""`kdpipe labels export`: the labels as a file that other tools read."""

from pathlib import Path
from typing import Annotated

import typer

from workers.commands.labels.arguments import Folder, open_labels


def export(directory: Folder, out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write; must not exist.")]) -> None:
    """Write all labels to one Parquet file, every shard checked on the way."""
    from pipeline.labels.export import export_parquet

    rows = export_parquet(open_labels(directory), out)
    typer.echo(f"{rows:,} rows in {out}, {out.stat().st_size:,} bytes")
