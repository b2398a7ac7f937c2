"""`kdpipe doctor`: what this machine has, and what a run would miss."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a check, for scripts.")] = False) -> None:
    """Check versions, ports, memory, disk, npm and Ray; exit 10 if something is missing."""
    from pipeline.errors import MachineError
    from workers.doctor import checks

    found = checks()
    for check in found:
        if as_json:
            typer.echo(json.dumps(asdict(check)))
        else:
            hint = "" if check.ok else f"; expected {check.expected}; {check.next_command}"
            typer.echo(f"{'ok ' if check.ok else 'NO '} {check.name}: {check.found}{hint}")
    missing = [check.name for check in found if not check.ok]
    if missing:
        raise typer.Exit(MachineError.exit_code)
