"""`kdpipe labels export`: the labels as files that other tools read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from workers.commands.labels.arguments import Folder, open_labels
from workers.commands.labels.progress import bar


class Format(StrEnum):
    PARQUET = "parquet"
    HF = "hf"


def export(
    directory: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write, or folder with --format hf; must not exist.")],
    form: Annotated[Format, typer.Option("--format", help="hf: a folder for datasets.load_from_disk.")] = Format.PARQUET,
) -> None:
    """Write all labels for use elsewhere, every shard checked on the way."""
    from pipeline.labels.export import export as export_labels

    with bar(directory, "export") as progress:
        rows = export_labels(open_labels(directory), out, form=form, progress=progress)
    size = sum(path.stat().st_size for path in (out.iterdir() if out.is_dir() else [out]))
    typer.echo(f"{rows:,} rows in {out}, {size:,} bytes")
