"""`kdpipe rollout plan`: a dry run. Who would get the release, in which wave, when at the earliest, and how many bytes."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator
from workers.commands.quantities import shown_bytes, shown_s
from workers.commands.rollout import arguments as a
from workers.commands.rollout.reach import counted, reached, remark

if TYPE_CHECKING:
    from workers.orchestrator.views import PlanView


def plan(
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
    devices: Annotated[bool, typer.Option("--devices", help="Name the devices of each wave, 1,000 at most.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whom a rollout would reach and when, and change nothing; `start` with the same options does it."""
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
        found = reached(operator, wish, for_nobody=for_nobody)
        said = remark(operator, wish, found)
    if as_json:
        typer.echo(json.dumps({"rollout_id": wish.rollout_id, "target": wish.target, **asdict(found)}))
        return
    _show(wish.rollout_id, wish.target, found, names=devices)
    if said:
        typer.echo(said)


def _show(rollout_id: str, target: str, found: "PlanView", *, names: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    total = sum(wave.devices for wave in found.waves)
    console.print(f"{rollout_id}: {target}, {shown_bytes(found.bundle_bytes)}, to {counted(total)}. Nothing was changed.")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("wave", "devices", "bytes", "starts after", "over after"):
        table.add_column(column, justify="right")
    for wave in found.waves:
        times = shown_s(wave.starts_s), shown_s(wave.ends_s)
        table.add_row(str(wave.wave), f"{wave.devices:,}", shown_bytes(wave.bytes), *times)
    console.print(table)
    for reason, count in found.left_out.items():
        console.print(f"not for {counted(count)}: {reason}")
    console.print(
        f"Times are the earliest: devices call every {found.sync_s:g} s and confirm at once. Bytes are of whole bundles; deltas take less."
    )
    for wave in found.waves if names else ():
        console.print(f"wave {wave.wave}: {' '.join(wave.device_ids)}", markup=False)
