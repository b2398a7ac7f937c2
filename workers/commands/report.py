"""`kdpipe report`: a run as one page to look at, keep or send."""

import json
import webbrowser
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

MODE = 0o644
"""The page holds figures and names of classes and slices, no sample: whoever gets it may read it."""


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run, finished or not.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the page goes; what is there is replaced.")] = Path(
        "report.html"
    ),
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Write what the run came to as one self-contained HTML page: plots, verdicts, costs. Changes nothing in DIR."""
    from pipeline.errors import ConfigError
    from pipeline.files import write_atomic
    from pipeline.report.headline import headline
    from pipeline.report.page import page
    from workers.commands.labels.progress import bar
    from workers.driver.folder import RunFolder
    from workers.driver.history import history_of

    folder = RunFolder.existing(directory)
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError("--out", f"{out} can be no file", "a file in a folder that is there", "make the folder, or name another")
    with bar(directory, "labels") as progress:
        facts = history_of(folder, made_at=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}", progress=progress)
    written = page(facts).encode()
    write_atomic(out, written, mode=MODE)
    if as_json:
        typer.echo(json.dumps({"report": str(out.resolve()), "bytes": len(written), "says": headline(facts)}))
    else:
        typer.echo("\n".join([*headline(facts), f"{out}: {len(written):,} bytes"]))
    if open_it and not webbrowser.open(out.resolve().as_uri()):
        typer.echo(f"no browser was found here; open {out.resolve()} in one", err=True)
