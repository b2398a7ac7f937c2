"""`kdpipe clean`: remove a run's folder."""

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def clean(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    labels: Annotated[bool, typer.Option("--labels", help="Only the labels; models, keys and devices stay.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what a run made in DIR: labels, models, keys, devices. Refuses while a run or a process of it lives."""
    from pipeline.errors import FolderBusyError
    from pipeline.labels.store import open_store, remove_labels
    from pipeline.recipes.prepared import MARKER
    from workers.driver.children import recorded
    from workers.driver.folder import LABEL_ENTRIES, RECIPE_ENTRIES, RUN_ENTRIES, Holder, RunFolder
    from workers.driver.holding import holding_labels
    from workers.driver.labels import store_url_in

    folder = RunFolder.existing(directory)
    store = store_url_in(folder)
    elsewhere = "" if store == str(folder.labels) else f", and the labels in {store}"
    if not yes:
        what = "labels" if labels else "labels, models, keys and devices"
        typer.confirm(f"remove the {what} in {folder.root}{elsewhere}?", abort=True)
    with Holder(folder):
        living = [child.part for child in recorded(folder).values() if child.alive()]
        if living:
            raise FolderBusyError(str(directory), ", ".join(living))
        if elsewhere:
            with holding_labels(folder, store, say=partial(typer.echo, err=True)):
                remove_labels(open_store(store))
        by_recipe = RECIPE_ENTRIES if (folder.root / MARKER).is_file() else ()
        for path in (folder.root / name for name in (LABEL_ENTRIES if labels else (*by_recipe, *RUN_ENTRIES))):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    if labels:
        typer.echo(f"removed the labels in {folder.root}; the next `kdpipe run` asks the teacher about everything again")
        return
    left = sorted(path.name for path in folder.root.iterdir())
    if left:
        typer.echo(f"cleaned {folder.root}; left what no run made: {', '.join(left)}")
    else:
        folder.root.rmdir()
        typer.echo(f"removed {folder.root}")
