"""`kdpipe logs`: what the parts of a run wrote."""

from collections import deque
from pathlib import Path
from typing import Annotated

import typer


def logs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    part: Annotated[str | None, typer.Argument(metavar="[PART]", help="driver, orchestrator, phones-1, ...; none lists them.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
) -> None:
    """Print the last lines of a part's log, or list the parts."""
    from pipeline.errors import ConfigError
    from workers.driver.folder import RunFolder

    folder = RunFolder.existing(directory)
    parts = sorted(path.stem for path in folder.logs.glob("*.log"))
    if part is None:
        for name in parts:
            typer.echo(f"{name}  {(folder.logs / f'{name}.log').stat().st_size} bytes")
        return
    if part not in parts:
        raise ConfigError("PART", f"no log of {part!r}", f"one of: {', '.join(parts) or 'none yet'}")
    with (folder.logs / f"{part}.log").open(errors="replace") as file:
        for line in deque(file, maxlen=lines):
            typer.echo(line.rstrip("\n"))
