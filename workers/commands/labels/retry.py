"""`kdpipe labels retry`: quarantined rows are asked about again."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels, warn
from workers.commands.labels.show import printable


def retry(
    directory: Folder,
    row: Annotated[int | None, typer.Option(metavar="N", help="The quarantined row at that global row.", min=0)] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Rows with that text in the reason that `ls --quarantined` gives.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every quarantined row.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make quarantined rows work again, for the next `kdpipe run`; starts no teacher. The run in DIR must not be running.

    They keep their row numbers, and come into windows of the generation that labels them: the order of older ones stays.
    """
    import os
    import secrets
    import time

    from pipeline.errors import ConfigError
    from pipeline.sources import open_source
    from workers.driver.folder import Holder, RunFolder
    from workers.driver.holding import holding_labels
    from workers.driver.labels import store_url_in
    from workers.driver.request import RunRequest
    from workers.labelling.retrying import retry as retry_rows

    chosen = {"--row": row is not None, "--reason": reason is not None, "--all": everything}
    if sum(chosen.values()) != 1:
        given = " and ".join(name for name, is_given in chosen.items() if is_given)
        raise ConfigError(
            "retry", given or "no rows named", f"one of {', '.join(chosen)}", "`kdpipe labels ls DIR --quarantined` lists them"
        )
    folder, store = RunFolder.existing(directory), open_labels(directory)
    with Holder(folder), holding_labels(folder, store_url_in(folder), say=warn):
        request = RunRequest.again(folder)
        done = retry_rows(
            store,
            open_source(request.run.stream, base=request.base),
            row=row,
            reason=reason or "",
            holder=f"retry pid {os.getpid()}",
            nonce=secrets.token_hex(16),
            now_unix_s=time.time(),
        )
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    for name, rows in done.gone.items():
        typer.echo(f"{rows:>9,} stay quarantined: {printable(name)} is not there as it was planned; what is there now is planned by itself")
    next_time = f"; the next `kdpipe run` asks the teacher about them, in generation {done.generation}" if done.rows else ""
    typer.echo(f"{done.rows:,} rows are work again{next_time}")
