"""`kdpipe init`: something to start from: a recipe's run file, or a small project of one's own."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="own: a teacher and samples of yours. Or a recipe: spam, digits.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where run.toml is written; made if missing.")],
) -> None:
    """Write a commented run file into DIR; with `own` also a teacher and samples to replace by yours."""
    from pipeline.errors import ConfigError
    from pipeline.files import create_exclusive
    from pipeline.recipes import OWN, RECIPES, starting_files

    if recipe != OWN and recipe not in RECIPES:
        raise ConfigError("recipe", f"no recipe named {recipe!r}", f"one of: {', '.join(sorted({OWN, *RECIPES}))}", "name one of them")
    files = {directory / name: content for name, content in starting_files(recipe).items()}
    start = f"`kdpipe run {directory / 'run.toml'}"
    for target in files:
        if target.exists():
            raise ConfigError(str(target), "a file is already here", "a folder without one", f"read it, or {start}`")
    for target, content in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        create_exclusive(target, content, mode=0o644)
    typer.echo(f"wrote {', '.join(map(str, files))}")
    typer.echo(f"next: {start} --dry-run`, then without it")
