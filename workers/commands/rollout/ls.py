"""`kdpipe rollout ls`: the rollouts that the orchestrator has in mind, the newest last."""

import json
from dataclasses import asdict

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator
from workers.commands.tables import folding_table, table_console


def ls(where: Where, as_json: AsJson = False) -> None:
    """Live rollouts and the last that ended; as JSON one object a line."""
    with open_operator(where) as operator:
        fleet = operator.get_fleet()
    rollouts, broken = fleet.rollouts, fleet.broken
    if as_json:
        for facts in (*map(asdict, rollouts), *map(asdict, broken)):
            typer.echo(json.dumps(facts))
        return
    if not rollouts and not broken:
        typer.echo("no rollout yet; `kdpipe rollout start FLEET RELEASE --population NAME` begins one")
        return

    console = table_console()
    heads = "rollout", "release", "population", "state", "wave", "confirmed"
    names = [*(view.rollout_id for view in rollouts), *(log.rollout_id for log in broken)]
    table = folding_table(*heads, name_width=max(map(len, names)))
    for view in rollouts:
        state = f"{view.state.value}, paused" if view.paused else view.state.value
        release = view.target.removeprefix("releases/").removesuffix(".kdpb")
        counts = f"{view.confirmed:,} of {view.devices:,}"
        table.add_row(view.rollout_id, release, view.population, state, f"{view.wave} of {view.waves}", counts)
    for log in broken:
        table.add_row(log.rollout_id, "", log.population, log.state, "", "")
    console.print(table, crop=False, markup=False)
    for view in rollouts:
        console.print(f"{view.rollout_id}: {view.reason}", markup=False, soft_wrap=True)
    for log in broken:
        console.print(f"{log.rollout_id}: nobody leads it. {log.reason}", markup=False, soft_wrap=True)
