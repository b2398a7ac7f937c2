"""`kdpipe run`: from samples to devices, and on from where it was."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    runfile: Annotated[
        str, typer.Argument(metavar="RUNFILE|RECIPE", help="A run file, a folder with a run.toml, or a recipe: spam, digits.")
    ],
    directory: Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Folder of the run; runs/NAME by default.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the run file; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and stop: what continues, what is labelled, what it costs.")
    ] = False,
    continuous: Annotated[bool, typer.Option("--continuous", help="Stay: a new generation whenever new samples arrive.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Write labels kept elsewhere (labelling.store) at once, even if another run seems to.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the orchestrator and the devices running at the end.")] = False,
) -> None:
    """Label, train, judge, sign and roll out; run it again and it goes on where it was."""
    from workers.driver.request import RunRequest
    from workers.driver.run import drive

    drive(RunRequest.of(runfile, directory, tuple(overrides or ()), dry_run=dry_run, continuous=continuous, keep=keep, take_over=take_over))
