"""`kdpipe clean`: remove a run's folder."""

import shutil
from pathlib import Path
from typing import Annotated

import typer


def clean(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what a run made in DIR: labels, models, keys, devices. Refuses while a run or a process of it lives."""
    from pipeline.errors import FolderBusyError
    from workers.driver.children import recorded
    from workers.driver.folder import ENTRIES, Holder, RunFolder

    folder = RunFolder.existing(directory)
    if not yes:
        typer.confirm(f"remove the labels, models, keys and devices in {folder.root}?", abort=True)
    with Holder(folder):
        living = [child.part for child in recorded(folder).values() if child.alive()]
        if living:
            raise FolderBusyError(str(directory), ", ".join(living))
        for path in (folder.root / name for name in ENTRIES):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    left = sorted(path.name for path in folder.root.iterdir())
    if left:
        typer.echo(f"cleaned {folder.root}; left what no run made: {', '.join(left)}")
    else:
        folder.root.rmdir()
        typer.echo(f"removed {folder.root}")
