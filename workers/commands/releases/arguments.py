"""What the verbs of releases share."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run: what was signed is in DIR/releases.")]
Name = Annotated[
    str, typer.Argument(metavar="RELEASE", help="Its path, its name (small-000001), or the first letters of its digest, six at least.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]
