"""`kdpipe labels ls`: what is there, by the log alone."""

import json
from dataclasses import asdict

import typer

from workers.commands.labels.arguments import AsJson, Folder


def ls(directory: Folder, as_json: AsJson = False) -> None:
    """What is planned, labelled and quarantined, by file and in all."""
    from pipeline.labels.store import open_store
    from pipeline.labels.verify import summarise
    from workers.driver.folder import RunFolder

    summary = summarise(open_store(str(RunFolder.existing(directory).labels)))
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
