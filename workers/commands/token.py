"""`kdpipe token`: letting devices of other machines into the fleet."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from workers.commands.fleet_access import Where, open_operator

MAX_FILES = 1000
app = typer.Typer(help="Let devices of other machines into the fleet.", no_args_is_help=True, rich_markup_mode=None)
Host = Annotated[
    str, typer.Option("--host", metavar="NAME", help="Name or address by which devices reach the orchestrator; as you reach it by default.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="FILE", help="First TUF root, metadata/1.root.json of the releases; a run's folder has it."),
]
Count = Annotated[int, typer.Option("--count", metavar="N", min=1, max=MAX_FILES, help="Files, in the folder --out, one for each device.")]


@app.callback()
def token() -> None:
    """Let devices of other machines into the fleet."""


@app.command("new")
def new(
    where: Where,
    population: Annotated[str, typer.Argument(metavar="POPULATION", help="Population that the device joins.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the enrolment file is written, mode 0600.")],
    host: Host = "",
    root: Root = None,
    count: Count = 1,
) -> None:
    """Write an enrolment file for one device; there, `kdpipe edge run --dir FOLDER --enrolment FILE` uses it, once."""
    from workers.orchestrator.client import enrolment_files

    _check_population(where, population)
    trusted, paths = _root(where, root), _paths(out, population, count)
    with open_operator(where) as operator:
        enrolment_files(operator, paths, host=host or _host(where) or operator.host, population=population, root=trusted)
    if count == 1:
        typer.echo(f"wrote {out}: whoever has it can enrol one device into {population}")
    else:
        typer.echo(f"wrote {count:,} files into {out}: whoever has one can enrol one device into {population}")


def _paths(out: Path, population: str, count: int) -> list[Path]:
    """Where files go. Raises ConfigError, before any token is made, where one is there already or none can be written."""
    from pipeline.errors import ConfigError

    width = len(str(count))
    paths = [out] if count == 1 else [out / f"{population}-{number:0{width}}.json" for number in range(1, count + 1)]
    there = next((path for path in paths if path.exists()), None)
    if there is not None:
        raise ConfigError("--out", f"{there} is there already", "a new file", "another name, or delete it")
    folder = paths[0].parent
    if count > 1:
        folder.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError("--out", f"{folder} is no folder that can be written", "one that can", "make it, or choose another")
    return paths


def _root(where: Path, given: Path | None) -> bytes:
    """What devices trust first: from a file or a folder here, never from the orchestrator. Raises ConfigError, MetadataInvalidError."""
    from pipeline.errors import ConfigError
    from pipeline.files import read_bounded
    from pipeline.releases.repository import MAX_METADATA_BYTES, check_first_root, root_bytes
    from workers.driver.folder import RunFolder

    if given is None and not _is_run(where):
        expected = "the first root of the releases' metadata"
        raise ConfigError("--root", "not given, and FLEET is no run's folder", expected, "--root REPOSITORY/metadata/1.root.json")
    if given is None:
        return root_bytes(RunFolder.existing(where).releases)
    if not given.is_file():
        raise ConfigError("--root", f"no file {given}", "metadata/1.root.json of the releases")
    return check_first_root(read_bounded(given, MAX_METADATA_BYTES), str(given))


def _check_population(where: Path, population: str) -> None:
    """Raises ConfigError for a name that is not in the run file; an orchestrator without a run takes any."""
    from pipeline.errors import ConfigError

    if _is_run(where) and population not in (known := _fleet(where)["populations"]):
        raise ConfigError("POPULATION", f"no population {population!r}", f"one of: {', '.join(sorted(known))}", "name one of them")


def _host(where: Path) -> str:
    """As the run file says; empty where there is no run."""
    return str(_fleet(where)["host"]) if _is_run(where) else ""


def _is_run(where: Path) -> bool:
    return where.is_dir() and not (where / "ports.json").is_file()


def _fleet(where: Path) -> dict[str, Any]:
    from workers.driver.folder import RunFolder, read_json

    fleet: dict[str, Any] = read_json(RunFolder.existing(where).origin_file)["run"]["fleet"]
    return fleet
