"""`kdpipe rollout abort`: end a rollout for good. Safe to repeat: what is done already is no error."""

from typing import Annotated

import typer

from workers.commands.fleet_access import AsJson, Where
from workers.commands.rollout.acting import act
from workers.commands.rollout.arguments import RolloutId


def abort(
    where: Where,
    rollout: RolloutId,
    then: Annotated[str, typer.Argument(metavar="keep|revert", help="Devices that confirmed the release keep it, or go back.")],
    as_json: AsJson = False,
) -> None:
    """End a rollout: devices that confirmed the release keep it, or go back to what they ran before."""
    if then not in ("keep", "revert"):
        raise typer.BadParameter(f"{then!r}; expected keep or revert")
    act(where, rollout, f"abort_{then}", as_json=as_json)
