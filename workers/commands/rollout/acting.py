"""What the verbs that move a rollout have in common."""

import json
from dataclasses import asdict
from pathlib import Path

import typer

from workers.commands.fleet_access import open_operator


def act(where: Path, rollout: str, action: str, *, as_json: bool) -> None:
    """Ask for the action and say what the rollout is now. Raises OrchestratorRefusedError where its state does not allow it."""
    from pipeline.rollout.steering import Action

    with open_operator(where) as operator:
        view = operator.control(rollout, Action(action))
    if as_json:
        typer.echo(json.dumps(asdict(view)))
    else:
        paused = ", paused" if view.paused else ""
        typer.echo(f"{view.rollout_id}: {view.state.value}{paused}. {view.reason}")
