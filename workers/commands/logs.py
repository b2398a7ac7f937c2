"""`kdpipe logs`: what the parts of a run wrote."""

from collections import deque
from pathlib import Path
from typing import Annotated

import typer


def logs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    part: Annotated[str | None, typer.Argument(metavar="[PART]", help="driver, phones-1, teacher-PID.err, ...; none lists them.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
) -> None:
    """Print the last lines of a part's log, or list the parts."""
    from pipeline.errors import ConfigError
    from workers.driver.folder import RunFolder
    from workers.driver.worker_logs import log_files

    files = log_files(RunFolder.existing(directory).logs)
    if part is None:
        for name, path in files.items():
            typer.echo(f"{name}  {path.stat().st_size:,} bytes  {path.resolve()}")
        return
    if part not in files:
        raise ConfigError(
            "PART", f"no log of {part!r}", f"one of: {', '.join(files) or 'none yet'}", f"`kdpipe logs {directory}` lists them"
        )
    with files[part].open(errors="replace") as file:
        for line in deque(file, maxlen=lines):
            typer.echo(line.rstrip("\n"))
