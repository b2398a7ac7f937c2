"""`kdpipe doctor`: what this machine has, and what a run would miss."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    runfile: Annotated[str | None, typer.Argument(metavar="[RUNFILE|RECIPE]", help="Check for this run; none is the spam recipe.")] = None,
    directory: Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Folder of the run; runs/NAME by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a check, for scripts.")] = False,
) -> None:
    """Check versions, ports, memory, disk, npm and Ray; exit 10 if something is missing."""
    from pipeline.errors import MachineError
    from workers.doctor import checks

    if runfile is None:
        found = checks(folder=directory or Path())
    else:
        from workers.driver.request import RunRequest

        request = RunRequest.of(runfile, directory)
        found = checks(run=request.run, folder=request.folder.root)
    for check in found:
        if as_json:
            typer.echo(json.dumps(asdict(check)))
        else:
            hint = "" if check.ok else f"; expected {check.expected}; {check.next_command}"
            typer.echo(f"{'ok ' if check.ok else 'NO '} {check.name}: {check.found}{hint}")
    missing = [check.name for check in found if not check.ok]
    if missing:
        raise typer.Exit(MachineError.exit_code)
