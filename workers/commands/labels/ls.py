"""`kdpipe labels ls`: what is there, by the log alone."""

import json
from dataclasses import asdict

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels


def ls(directory: Folder, as_json: AsJson = False) -> None:
    """What is planned, labelled and quarantined, by file and in all."""
    from pipeline.labels.verify import summarise

    summary = summarise(open_labels(directory))
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
        return
    for part in summary.parts:
        typer.echo(f"{part.rows_done:>9,} of {part.rows:>9,}  {part.name}")
    typer.echo(
        f"{summary.rows_committed:,} of {summary.rows_planned:,} rows labelled, {summary.rows_quarantined:,} quarantined; "
        f"{summary.shards:,} shards, {summary.bytes:,} bytes, {summary.windows:,} windows; {summary.teacher_s:.1f} teacher seconds"
    )
    for reason, rows in summary.quarantine_reasons:
        typer.echo(f"{rows:>9,} quarantined: {reason}")
