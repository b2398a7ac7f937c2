"""`kdpipe labels cost`: what the stored labels took of the teacher's time."""

import json
from dataclasses import asdict

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels


def cost(directory: Folder, as_json: AsJson = False) -> None:
    """Teacher seconds in the log, by generation and by teacher; without repairs and what was lost before its commit."""
    from pipeline.labels.cost import labels_cost
    from pipeline.labels.log import LogReader

    found = labels_cost(LogReader(open_labels(directory)).refresh())
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    for spent in (*found.generations, *found.teachers):
        typer.echo(f"{spent.teacher_s:>12,.2f} s  {spent.rows:>9,} rows  {spent.of}")
    typer.echo(f"{found.teacher_s:,.2f} teacher seconds for {found.rows:,} rows" if found.rows else "nothing is labelled yet")
