"""`kdpipe rollout start`: create a rollout and approve it. Safe to repeat after a lost answer: its name is chosen here."""

import json
from dataclasses import asdict

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator
from workers.commands.rollout import arguments as a
from workers.commands.rollout.reach import reached, refuse_conflict, refuse_ended, remark


def start(
    where: Where,
    release: a.Release,
    population: a.Population,
    name: a.Name = "",
    waves: a.Waves = a.USUAL_WAVES,
    soak: a.Soak = a.USUAL_SOAK,
    deadline: a.Deadline = a.USUAL_DEADLINE,
    lost_after: a.Lost = "0",
    label: a.Labels = None,
    hardware: a.Hardware = None,
    runtime: a.Runtime = "",
    free_memory: a.Memory = "0",
    in_flight: a.InFlight = 0,
    in_flight_share: a.InFlightShare = a.USUAL_IN_FLIGHT_SHARE,
    bandwidth: a.Bandwidth = "0",
    margin: a.MarginOptions = None,
    on_halt: a.OnHalt = "hold",
    for_nobody: a.ForNobody = False,
    as_json: AsJson = False,
) -> None:
    """Bring a published release to a population, wave by wave; a wave that goes wrong stops the rollout by itself."""
    wish = a.wish_of(
        release=release,
        population=population,
        name=name,
        waves_=waves,
        soak=soak,
        deadline=deadline,
        lost_after=lost_after,
        labels=label,
        hardware=hardware,
        runtime=runtime,
        free_memory=free_memory,
        in_flight=in_flight,
        in_flight_share=in_flight_share,
        bandwidth=bandwidth,
        margins=margin,
        on_halt=on_halt,
    )
    with open_operator(where) as operator:
        said = remark(operator, wish, reached(operator, wish, for_nobody=for_nobody))
        refuse_conflict(operator, wish)
        operator.create(wish)
        view = operator.approve(wish.rollout_id)
        refuse_ended(view)
    if as_json:
        typer.echo(json.dumps(asdict(view)))
        return
    if said:
        typer.echo(said)
    typer.echo(f"{view.rollout_id}: {view.state.value}, {view.reason}")
    typer.echo(f"`kdpipe rollout watch {where} {view.rollout_id}` follows it")
