"""`kdpipe labels`: looking at stored labels."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at a run's stored labels.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]


@app.command("ls")
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


@app.command("verify")
def verify(directory: Folder, as_json: AsJson = False) -> None:
    """Check every committed shard against the log, byte by byte; exit 4 if one is bad."""
    from pipeline.errors import LabelStoreError
    from pipeline.labels.store import open_store
    from pipeline.labels.verify import verify as verify_labels
    from workers.driver.folder import RunFolder, write_json

    folder = RunFolder.existing(directory)
    found = verify_labels(open_store(str(folder.labels)))
    if found.bad:
        write_json(folder.bad_shards_file, [bad.shard for bad in found.bad])
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        for bad in found.bad:
            typer.echo(f"bad: {bad.shard} ({bad.rows:,} rows): {bad.problem}")
        for problem in found.problems:
            typer.echo(f"log: {problem}")
        verdict = "all sound" if found.shards else "nothing is labelled yet"
        if not found.sound:
            verdict = f"{len(found.bad)} bad; the next `kdpipe run` labels them again"
        typer.echo(f"{found.shards:,} shards, {found.rows:,} rows: {verdict}")
    if not found.sound:
        raise typer.Exit(LabelStoreError.exit_code)
