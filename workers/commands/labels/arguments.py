"""What the verbs of `kdpipe labels` have in common on the command line."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]
