"""`kdpipe init`: a commented run file to start from."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="spam or digits.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where run.toml is written; made if missing.")],
) -> None:
    """Write a recipe's commented run file into DIR."""
    from pipeline.errors import ConfigError
    from pipeline.files import create_exclusive
    from pipeline.recipes import RECIPES, recipe_text

    if recipe not in RECIPES:
        raise ConfigError(
            "recipe",
            f"no recipe named {recipe!r}",
            f"one of: {', '.join(sorted(RECIPES))}",
            "name one of them",
        )
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "run.toml"
    if not create_exclusive(target, recipe_text(recipe).encode(), mode=0o644):
        raise ConfigError(str(target), "a run file is already here", "a folder without one", f"read it, or `kdpipe run {target}`")
    typer.echo(f"wrote {target}; next: `kdpipe run {target} --dry-run`, then without it")
