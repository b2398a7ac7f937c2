"""`kdpipe edge`: a device's verbs. Imports nothing that a light install does not have."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from workers.logs import log_as_json

app = typer.Typer(help="A device: enrol it, run its agent, ask it.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="The device's folder.", metavar="DEVICE_DIR")]


@app.command("run")
def run(
    directory: Annotated[Path, typer.Option("--dir", help="The device's folder.", metavar="DEVICE_DIR")],
    enrolment: Annotated[Path | None, typer.Option(help="Enrolment file, where the device is not enrolled yet.")] = None,
    hardware_class: Annotated[str | None, typer.Option(help="As releases name it; by default system and processor.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve /metrics there; 0 picks a free port.")] = None,
    shadow_s: Annotated[float, typer.Option(help="Wait so long for live inputs before a candidate is shadowed.", min=0)] = 1.0,
    trial_s: Annotated[float, typer.Option(help="Answer so long with a candidate before it is confirmed.", min=0)] = 0.5,
    seed: Annotated[int | None, typer.Option(help="Of the jitter; by default from the device's name.")] = None,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", help="End when standard input ends.")] = False,
) -> None:
    """Run the device's agent: sync, install, answer. Prints one JSON line when it is ready."""
    from workers.edge.device_process import Options, run_device
    from workers.edge.install import Pace

    log_as_json(sys.stderr)
    run_device(
        Options(
            folder=directory,
            enrolment=enrolment,
            hardware=hardware_class,
            metrics_port=metrics_port,
            exit_with_parent=exit_with_parent,
            pace=Pace(shadow_s=shadow_s, trial_s=trial_s),
            seed=seed,
        )
    )


@app.command("enrol")
def enrol(
    directory: Folder,
    enrolment: Annotated[Path, typer.Option(help="The enrolment file that the operator made.")],
    hardware_class: Annotated[str | None, typer.Option(help="As releases name it; by default system and processor.")] = None,
) -> None:
    """Enrol the device and end. Safe to repeat."""
    from workers.edge.enrol import enrol as enrol_device
    from workers.edge.fleet_client import EnrolmentClient
    from workers.edge.folder import DeviceFolder, FolderLock
    from workers.edge.machine import hardware_class as this_hardware

    lock = FolderLock(directory)
    try:
        identity = enrol_device(
            DeviceFolder(directory).identity,
            enrolment,
            lambda fleet: EnrolmentClient(fleet.endpoint_enrolment, fleet.ca_pem),
            hardware_class=hardware_class or this_hardware(),
        )
    finally:
        lock.release()
    typer.echo(f"enrolled as {identity.device}")


@app.command("predict")
def predict(
    directory: Folder,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; `-` or nothing reads one JSON value or text a line.", metavar="[TEXT]...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The device's whole answer.")] = False,
) -> None:
    """Ask the device through its local prediction API."""
    from workers.edge.local_client import LocalDevice

    inputs: list[Any] = [_input(line.rstrip("\n")) for line in sys.stdin] if not texts or texts == ["-"] else list(texts)
    with LocalDevice(directory) as device:
        answer = device.predict(inputs)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for row, name in zip(answer["probabilities"], answer["predictions"], strict=True):
        typer.echo(f"{name}\t{max(row):.4f}")


@app.command("status")
def status(directory: Folder, as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False) -> None:
    """Show what the device runs and does."""
    from workers.edge.local_client import LocalDevice

    with LocalDevice(directory) as device:
        tree = device.status()
    if as_json:
        typer.echo(json.dumps(tree))
        return
    for key, value in tree.items():
        typer.echo(f"{key:<16} {value if value not in (None, '') else '-'}")


def _input(line: str) -> Any:
    """A line of JSON that is a list of numbers, a JSON string, or the text itself."""
    if line[:1] in ("[", '"'):
        try:
            return json.loads(line)
        except ValueError:
            return line
    return line
