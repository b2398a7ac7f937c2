"""`kdpipe device`: who is in the fleet, what they run, and who no longer belongs to it."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator
from workers.commands.quantities import shown_bytes, shown_s
from workers.commands.tables import folding_table, table_console
from workers.edge.picture import WAYS

if TYPE_CHECKING:
    from workers.orchestrator.client import Operator
    from workers.orchestrator.views import DeviceView

app = typer.Typer(help="Look at the fleet's devices, label them, revoke them.", no_args_is_help=True, rich_markup_mode=None)
DeviceId = Annotated[
    str,
    typer.Argument(metavar="DEVICE", help="Its id (`kdpipe device ls FLEET`), or its name in a run's folder, like phones-1."),
]


@app.command("ls")
def ls(
    where: Where,
    population: Annotated[str, typer.Option("--population", "-p", metavar="NAME", help="Only these.")] = "",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only with this label; may be repeated.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Revoked devices, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every device: what it runs, what it was told to run, when it called last. As JSON one object a line."""
    wanted = set(label or ())
    for pair in wanted:
        _check_pair(pair, "--label ")
    with open_operator(where) as operator:
        found = [
            device
            for device in operator.get_fleet().devices
            if population in ("", device.population) and wanted <= set(device.labels) and (revoked or not device.is_revoked)
        ]
    if as_json:
        for device in found:
            typer.echo(json.dumps(asdict(device)))
        return
    if not found:
        typer.echo("no such device; `kdpipe token new DIR POPULATION --out FILE` lets one in")
        return

    heads = "device", "population", "hardware", "state", "runs", "assigned", "called", "labels"
    table = folding_table(*heads, name_width=max(len(device.device_id) for device in found))
    now = time.time()
    for device in found:
        state = "revoked" if device.is_revoked else _state(device)
        names = device.device_id, device.population, device.hardware, state, device.running_digest[:12] or "-"
        table.add_row(*names, _short(device.assigned_target), _called(device, now), " ".join(device.labels))
    table_console().print(table, crop=False, markup=False)


@app.command("show")
def show(where: Where, device: DeviceId, as_json: AsJson = False) -> None:
    """All that the orchestrator knows of one device."""
    with open_operator(where) as operator:
        found = _find(operator, _id_of(where, device))
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    for line in _lines(found, time.time()):
        typer.echo(line)


@app.command("label")
def label(
    where: Where,
    device: DeviceId,
    labels: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Labels it gets.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="NAME", help="A label it loses; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a device labels, for `kdpipe rollout start --label NAME=VALUE`. Another value of the same name is replaced."""
    for pair in labels or ():
        _check_pair(pair)
    with open_operator(where) as operator:
        found = operator.label(_id_of(where, device), put=labels or (), remove=remove or ())
    typer.echo(json.dumps(asdict(found)) if as_json else f"{found.device_id}: {' '.join(found.labels) or 'no label'}")


@app.command("revoke")
def revoke(where: Where, device: DeviceId) -> None:
    """Refuse a device from its next call on. It keeps what it runs; to come back it must be enrolled anew."""
    device_id = _id_of(where, device)
    with open_operator(where) as operator:
        operator.revoke(device_id)
    typer.echo(f"{device_id}: revoked; it is refused from its next call on")


def _check_pair(pair: str, option: str = "") -> None:
    """Raises BadParameter for what is no NAME=VALUE."""
    if not all(pair.partition("=")[::2]):
        raise typer.BadParameter(f"{option}{pair!r:.80}; expected NAME=VALUE")


def _id_of(where: Path, device: str) -> str:
    """The device's id: of one that a run plays, its folder's name there (`phones-1`) will do."""
    from workers.edge.enrol import identity_in_force
    from workers.edge.folder import DeviceFolder

    if Path(device).name != device:
        return device
    identity = identity_in_force(DeviceFolder(where / "devices" / device).identity)
    return identity.device if identity else device


def _find(operator: "Operator", device_id: str) -> "DeviceView":
    from workers.orchestrator.client import OrchestratorRefusedError

    for device in operator.get_fleet().devices:
        if device.device_id == device_id:
            return device
    raise OrchestratorRefusedError("NOT_FOUND", f"device {device_id:.100}: there is none; `kdpipe device ls FLEET` lists them")


def _lines(device: "DeviceView", now: float) -> list[str]:
    memory = shown_bytes(device.free_memory_bytes) if device.free_memory_bytes else "not told"
    lines = [
        device.device_id,
        f"  population  {device.population}",
        f"  hardware    {device.hardware}, runtime {device.runtime or 'not told'}, free memory {memory}",
        f"  agent       {device.agent_version or 'not told'}, called {_called(device, now)}",
        f"  labels      {' '.join(device.labels) or '-'}",
        f"  state       {'revoked; last ' if device.is_revoked else ''}{_state(device)}",
        f"  runs        {device.running_digest or '-'}{_arrival(device)}",
        f"  assigned    {_short(device.assigned_target)} {device.assigned_digest}".rstrip(),
    ]
    if device.serving is not None:
        told = device.serving
        lines.append(
            f"  answers     {told.answers:,} lately, median {told.latency_p50_ms:.3g} ms, mean confidence {told.confidence_mean:.3f}"
        )
        if told.asked:
            lines.append(f"  teacher     said the same as {told.agreed:,} of {told.asked:,} answers, drawn at random")
    return lines


def _arrival(device: "DeviceView") -> str:
    came = device.arrival
    return "" if came is None else f", {WAYS.get(came.way, came.way)}, {shown_bytes(came.fetched_bytes)}"


def _state(device: "DeviceView") -> str:
    state = "not told" if device.state == "unspecified" else device.state
    return f"{state} {device.failure_code}".strip()


def _called(device: "DeviceView", now: float) -> str:
    return f"{shown_s(max(0.0, now - device.last_seen_unix_s))} ago" if device.last_seen_unix_s else "never"


def _short(target: str) -> str:
    return target.removeprefix("releases/").removesuffix(".kdpb") or "-"
