"""Where a verb finds the orchestrator: in the folder of a run, or by an operator's file that came from elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from workers.orchestrator.client import Operator

Where = Annotated[
    Path,
    typer.Argument(metavar="FLEET", help="Folder of a run or of an orchestrator that is running here, or an operator's file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]


def open_operator(where: Path) -> "Operator":
    """A connection; close it. Raises ConfigError, OrchestratorUnreachableError, OperatorFileError."""
    from pipeline.errors import ConfigError
    from workers.driver.folder import RunFolder, read_json
    from workers.orchestrator.client import Operator

    if where.is_file():
        return Operator.from_file(where)
    if not where.is_dir():
        raise ConfigError(str(where), "no such folder or file", "the DIR of a run, or an operator's file", "`kdpipe run spam` starts a run")
    if (where / "ports.json").is_file():
        return Operator.open(where)
    folder = RunFolder.existing(where)
    return Operator.open(folder.fleet, host=read_json(folder.origin_file)["run"]["fleet"]["host"])
