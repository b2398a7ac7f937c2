"""`kdpipe rollout ls`: the rollouts that the orchestrator has in mind, the newest last."""

import json
from dataclasses import asdict

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator
from workers.commands.tables import folding_table, table_console


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

    console = table_console()
    heads = "rollout", "release", "population", "state", "wave", "confirmed"
    table = folding_table(*heads, name_width=max(len(view.rollout_id) for view in rollouts))
    for view in rollouts:
        state = f"{view.state.value}, paused" if view.paused else view.state.value
        release = view.target.removeprefix("releases/").removesuffix(".kdpb")
        counts = f"{view.confirmed:,} of {view.devices:,}"
        table.add_row(view.rollout_id, release, view.population, state, f"{view.wave} of {view.waves}", counts)
    console.print(table, crop=False, markup=False)
    for view in rollouts:
        console.print(f"{view.rollout_id}: {view.reason}", markup=False, soft_wrap=True)
