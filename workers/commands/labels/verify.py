"""`kdpipe labels verify`: every byte against the log."""

import json
from dataclasses import asdict

import typer

from workers.commands.labels.arguments import AsJson, Folder


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
