"""`kdpipe rollout ls`: the rollouts that the orchestrator has in mind, the newest last."""

import json
from dataclasses import asdict

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator


def ls(where: Where, as_json: AsJson = False) -> None:
    """Live rollouts and the last that ended; as JSON one object a line."""
    with open_operator(where) as operator:
        rollouts = operator.get_fleet().rollouts
    if as_json:
        for view in rollouts:
            typer.echo(json.dumps(asdict(view)))
        return
    if not rollouts:
        typer.echo("no rollout yet; `kdpipe rollout start FLEET RELEASE --population NAME` begins one")
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("rollout", "release", "population", "state", "wave", "confirmed", "why"):
        table.add_column(column, overflow="fold" if column == "why" else "ellipsis", no_wrap=column != "why")
    for view in rollouts:
        state = f"{view.state.value}, paused" if view.paused else view.state.value
        release = view.target.removeprefix("releases/").removesuffix(".kdpb")
        counts = f"{view.confirmed:,} of {view.devices:,}"
        table.add_row(view.rollout_id, release, view.population, state, f"{view.wave} of {view.waves}", counts, view.reason)
    Console(highlight=False).print(table)
