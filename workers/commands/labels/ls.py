"""`kdpipe labels ls`: what is there, by the log alone."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels
from workers.commands.labels.show import printable

if TYPE_CHECKING:
    from pipeline.labels.store import Store


def ls(
    directory: Folder,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Every row without a label, where it is in the source, and why.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What is planned, labelled and quarantined, by file and in all."""
    from pipeline.labels.verify import summarise

    store = open_labels(directory)
    if quarantined:
        _list_quarantined(store, as_json=as_json)
        return
    summary = summarise(store)
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
        return
    for part in summary.parts:
        typer.echo(f"{part.rows_done:>9,} of {part.rows:>9,}  {printable(part.name)}")
    known = f" ({summary.rows_reused:,} were known)" if summary.rows_reused else ""
    forgotten = f", {summary.rows_tombstoned:,} forgotten" if summary.rows_tombstoned else ""
    apart = f"{summary.rows_quarantined:,} quarantined{forgotten}"
    typer.echo(
        f"{summary.rows_committed:,} of {summary.rows_planned:,} rows labelled{known}, {apart}; "
        f"{summary.shards:,} shards, {summary.bytes:,} bytes, {summary.windows:,} windows; {summary.teacher_s:.1f} teacher seconds"
    )
    for reason, rows in summary.quarantine_reasons:
        typer.echo(f"{rows:>9,} quarantined: {printable(reason)}")


def _list_quarantined(store: "Store", *, as_json: bool) -> None:
    """One a line; as JSON one object a line."""
    from pipeline.labels.log import LogReader
    from pipeline.labels.stored import set_aside

    for found in set_aside(LogReader(store).refresh()):
        words = f"{printable(found.part)} row {found.part_row} (row {found.row}): {printable(found.reason)}"
        typer.echo(json.dumps(asdict(found)) if as_json else words)
