"""`kdpipe edge`: a device's verbs. Imports nothing that a light install does not have."""

import contextlib
import json
import os
import stat
import sys
import time
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
    ask_below: Annotated[
        float,
        typer.Option(
            help="Ask the teacher where the model gives its class a smaller probability, and answer with what it says. The input leaves "
            "the device. 0: never.",
            metavar="P",
        ),
    ] = 0.0,
    ask_share: Annotated[
        float,
        typer.Option(
            help="Hold this share of all answers, drawn at random, against the teacher's, for the gates of a rollout. The inputs leave the "
            "device. 0: none.",
            metavar="S",
        ),
    ] = 0.0,
    asks_per_hour: Annotated[float, typer.Option(help="Questions of both kinds together.", metavar="N")] = 60.0,
    ask_wait_ms: Annotated[float, typer.Option(help="An answer waits no longer for the teacher.", metavar="MS")] = 300.0,
    seed: Annotated[int | None, typer.Option(help="Of the jitter and the draw; by default another at each start.")] = None,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", help="End when standard input ends.")] = False,
) -> None:
    """Run the device's agent: sync, install, answer. Prints one JSON line when it is ready."""
    from workers.edge.allowance import AskOptions
    from workers.edge.device_process import Options, run_device
    from workers.edge.install import Pace

    ask = AskOptions(below=ask_below, share=ask_share, per_hour=asks_per_hour, wait_ms=ask_wait_ms)
    log_as_json(sys.stderr)
    run_device(
        Options(
            folder=directory,
            enrolment=enrolment,
            hardware=hardware_class,
            metrics_port=metrics_port,
            exit_with_parent=exit_with_parent,
            pace=Pace(shadow_s=shadow_s, trial_s=trial_s),
            ask=ask,
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
        list[str] | None,
        typer.Argument(help="Texts, or JSON lists of numbers; `-` or nothing reads lines.", metavar="[TEXT]..."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Read the lines of this file.", exists=True, dir_okay=False, readable=True)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each input.")] = False,
) -> None:
    """Ask the device through its local prediction API. Lines are answered in order, while they come.

    A model of texts gets each line as it is (a JSON string as the text in it), one of numbers a JSON list of numbers a line.
    """
    from workers.edge.lines import in_pieces, read_line, read_word
    from workers.edge.local_client import LocalDevice

    words = texts if texts and texts != ["-"] else None
    if words and file is not None:
        raise typer.BadParameter("texts and --file; expected one of them")
    with contextlib.ExitStack() as opened:
        device = opened.enter_context(LocalDevice(directory))
        diet = device.diet()
        if words:
            pieces = in_pieces(words, lambda word, number: read_word(word, diet, f"input {number}"), most=ROWS_A_CALL)
        else:
            stream = opened.enter_context(file.open(encoding="utf-8", errors="replace")) if file else sys.stdin
            name, at_once = str(file or "standard input"), file is not None or _is_file(stream)
            lines = (line.rstrip("\r\n") for line in stream)
            pieces = in_pieces(
                lines, lambda line, number: read_line(line, diet, f"{name}, line {number}"), most=ROWS_A_CALL if at_once else 1
            )
        for inputs in pieces:
            _show(device.predict(inputs), as_json=as_json)


@app.command("status")
def status(directory: Folder, as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False) -> None:
    """Show what the device runs, how it came, and what the device does now."""
    from workers.edge.local_client import LocalDevice
    from workers.edge.picture import picture

    with LocalDevice(directory) as device:
        tree = device.status()
    typer.echo(json.dumps(tree) if as_json else "\n".join(picture(tree, now=time.time())))


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    about = {key: answer[key] for key in ("student", "release", "digest")}
    for row, name, by_teacher in zip(answer["probabilities"], answer["predictions"], answer["by_teacher"], strict=True):
        if as_json:
            probabilities = dict(zip(answer["classes"], row, strict=True))
            typer.echo(json.dumps({"prediction": name, "probabilities": probabilities, "by_teacher": by_teacher, **about}))
        else:
            mark = "\tby the teacher" if by_teacher else ""
            typer.echo(f"{name}\t{max(row):.4f}{mark}")


def _is_file(stream: TextIO) -> bool:
    """Whether all of it is there already: a person, or a pipe that goes on, gets each answer when its line came."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return True
