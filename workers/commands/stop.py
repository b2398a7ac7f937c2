"""`kdpipe stop`: end a run and everything it started."""

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

PATIENCE_S = 30.0


def stop(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")]) -> None:
    """Stop the run in DIR, and processes that --keep or a killed driver left."""
    from pipeline.errors import FolderBusyError
    from workers.driver.children import end, recorded
    from workers.driver.folder import Holder, RunFolder, holder_of

    folder = RunFolder.existing(directory)
    pid = holder_of(folder)
    if pid is not None and pid > 0:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S
        while holder_of(folder) == pid:
            if time.monotonic() > deadline:
                raise FolderBusyError(str(directory), f"pid {pid}, which did not stop within {PATIENCE_S:.0f} s of SIGTERM")
            time.sleep(0.1)
    with Holder(folder):
        left = [child for child in recorded(folder).values() if child.alive()]
        end(left)
    ended = [*(["driver"] if pid else []), *(child.part for child in left)]
    typer.echo(f"stopped {', '.join(ended)}" if ended else "nothing was running")
