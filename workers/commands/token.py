"""`kdpipe token`: letting devices of other machines into the fleet."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Let a device of another machine into the fleet.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def token() -> None:
    """Let a device of another machine into the fleet."""


@app.command("new")
def new(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run whose orchestrator is running.")],
    population: Annotated[str, typer.Argument(metavar="POPULATION", help="Population that the device joins, as the run file names it.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the enrolment file is written, mode 0600.")],
) -> None:
    """Write an enrolment file for one device; there, `kdpipe edge run --dir FOLDER --enrolment FILE` uses it, once."""
    from pipeline.errors import ConfigError
    from pipeline.releases.repository import root_bytes
    from workers.driver.folder import RunFolder, read_json
    from workers.orchestrator.client import Operator, enrolment_files

    folder = RunFolder.existing(directory)
    fleet = read_json(folder.origin_file)["run"]["fleet"]
    if population not in fleet["populations"]:
        raise ConfigError(
            "POPULATION", f"no population {population!r}", f"one of: {', '.join(sorted(fleet['populations']))}", "name one of them"
        )
    with Operator.open(folder.fleet, host=fleet["host"]) as operator:
        enrolment_files(
            operator,
            out.parent,
            fleet_dir=folder.fleet,
            host=fleet["host"],
            population=population,
            names=[out.stem],
            root=root_bytes(folder.releases),
        )
    out.parent.joinpath(f"{out.stem}.json").replace(out)
    typer.echo(f"wrote {out}: whoever has it can enrol one device into {population}")
