"""`kdpipe edge`: a device's verbs. Imports nothing that a light install does not have."""

import contextlib
import itertools
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from workers.logs import log_as_json

app = typer.Typer(help="A device: enrol it, run its agent, ask it.", no_args_is_help=True, rich_markup_mode=None)

ROWS_A_CALL = 256

Folder = Annotated[Path, typer.Argument(help="The device's folder.", metavar="DEVICE_DIR")]


@app.command("run")
def run(
    directory: Annotated[Path, typer.Option("--dir", help="The device's folder.", metavar="DEVICE_DIR")],
    enrolment: Annotated[Path | None, typer.Option(help="Enrolment file; a new one enrols the device anew.")] = None,
    hardware_class: Annotated[str | None, typer.Option(help="As releases name it; by default system and processor.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve /metrics there; 0 picks a free port.")] = None,
    shadow_s: Annotated[float, typer.Option(help="Wait at most so long for live inputs before a candidate is shadowed.", min=0)] = 30.0,
    trial_s: Annotated[float, typer.Option(help="Answer so long with a candidate before it is confirmed.", min=0)] = 20.0,
    seed: Annotated[int | None, typer.Option(help="Of the jitter; by default another at each start.")] = None,
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
    """Enrol the device and end: anew, where it was enrolled by another file. Safe to repeat."""
    from workers.edge.connection import connect_enrolment
    from workers.edge.enrol import enrol as enrol_device
    from workers.edge.enrol import identity_in_force
    from workers.edge.folder import DeviceFolder, FolderLock
    from workers.edge.machine import hardware_class as this_hardware

    lock, folder = FolderLock(directory), DeviceFolder(directory).identity
    try:
        before = identity_in_force(folder)
        identity = enrol_device(folder, enrolment, connect_enrolment, hardware_class=hardware_class or this_hardware())
    finally:
        lock.release()
    done = f"enrolled as {identity.device}"
    typer.echo(f"{done} by this file already; nothing to do" if identity == before else done)


@app.command("predict")
def predict(
    directory: Folder,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; `-` or nothing reads one JSON value or text a line.", metavar="[TEXT]...")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Read the lines of this file.", exists=True, dir_okay=False, readable=True)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each input.")] = False,
) -> None:
    """Ask the device through its local prediction API. Lines are answered in order, while they come."""
    from workers.edge.local_client import LocalDevice

    if texts and texts != ["-"] and file is not None:
        raise typer.BadParameter("texts and --file; expected one of them")
    with contextlib.ExitStack() as opened:
        device = opened.enter_context(LocalDevice(directory))
        if texts and texts != ["-"]:
            lines: Iterable[Any] = texts
        else:
            source = opened.enter_context(file.open(encoding="utf-8", errors="replace")) if file else sys.stdin
            lines = (_input(line.rstrip("\r\n")) for line in source)
        at_once = bool(texts and texts != ["-"]) or file is not None or _is_file(sys.stdin)
        for inputs in _pieces(lines, ROWS_A_CALL if at_once else 1):
            _show(device.predict(inputs), as_json=as_json)


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


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    about = {key: answer[key] for key in ("student", "release", "digest")}
    for row, name in zip(answer["probabilities"], answer["predictions"], strict=True):
        if as_json:
            typer.echo(json.dumps({"prediction": name, "probabilities": dict(zip(answer["classes"], row, strict=True)), **about}))
        else:
            typer.echo(f"{name}\t{max(row):.4f}")


def _is_file(stream: TextIO) -> bool:
    """Whether all of it is there already: a person, or a pipe that goes on, gets each answer when its line came."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return True


def _pieces(lines: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """At most so many lines a call."""
    rest = iter(lines)
    while piece := list(itertools.islice(rest, most)):
        yield piece


def _input(line: str) -> Any:
    """A line of JSON that is a list of numbers, a JSON string, or the text itself."""
    if line[:1] in ("[", '"'):
        try:
            return json.loads(line)
        except ValueError:
            return line
    return line
