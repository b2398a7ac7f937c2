"""`kdpipe rollout watch`: a live picture of a rollout until it ends; over a pipe, a line at each change.

An orchestrator that does not answer for a while is waited for. Exits 0 where the rollout completed, 8 where it halted or went back.
"""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.fleet_access import Where, open_operator
from workers.commands.rollout.arguments import RolloutId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from workers.orchestrator.client import Operator
    from workers.orchestrator.views import RolloutView


def watch(
    where: Where,
    rollout: RolloutId,
    every: Annotated[float, typer.Option("--every", min=0.1, metavar="SECONDS", help="How often to look.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, at each change.")] = False,
) -> None:
    """Follow a rollout until it ends: waves, counts, the tests against their bounds, and why it stands where it stands."""
    from rich.console import Console

    console = Console(highlight=False)
    with open_operator(where) as operator:
        try:
            if as_json:
                view = _tell(operator, rollout, every, lambda view: typer.echo(json.dumps(asdict(view))))
            elif console.is_terminal:
                view = _draw(operator, rollout, every, console)
            else:
                from workers.commands.rollout.picture import line

                view = _tell(operator, rollout, every, lambda view: typer.echo(line(view)))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    _judge(view)


def _judge(view: "RolloutView") -> None:
    from pipeline.rollout.rollout import RolloutState
    from workers.orchestrator.client import RolloutEndedError

    if view.state is not RolloutState.COMPLETED:
        raise RolloutEndedError(view.rollout_id, view.state.value, view.reason)


def _tell(operator: "Operator", rollout: str, every: float, tell: "Callable[[RolloutView], None]") -> "RolloutView":
    last = None
    for view, problem in _views(operator, rollout, every):
        if problem:
            typer.echo(f"kdpipe: {problem}; asking again", err=True)
        elif view != last:
            tell(view)
        last = view
    assert last is not None
    return last


def _draw(operator: "Operator", rollout: str, every: float, console: "Console") -> "RolloutView":
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from workers.commands.rollout.picture import picture

    last = None
    with Live(console=console, auto_refresh=False) as live:
        for view, problem in _views(operator, rollout, every):
            shown = picture(view, now=time.time())
            live.update(Group(shown, Text(f"{problem}; asking again", style="yellow")) if problem else shown, refresh=True)
            last = view
    assert last is not None
    return last


def _views(operator: "Operator", rollout: str, every: float) -> "Iterator[tuple[RolloutView, str]]":
    """The rollout, again and again until it ends; the last one known and a problem where nobody answers.

    Raises OrchestratorRefusedError, and OrchestratorUnreachableError where nobody answers the first time.
    """
    from workers.orchestrator.client import OrchestratorUnreachableError

    view = operator.get_rollout(rollout)
    yield view, ""
    while not view.has_ended:
        time.sleep(every)
        try:
            view, problem = operator.get_rollout(rollout), ""
        except OrchestratorUnreachableError as error:
            problem = str(error)
        yield view, problem
