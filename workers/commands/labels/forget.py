"""`kdpipe labels forget`: what is stored of single samples goes, for ever."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.labelling.forgetting import Forgotten


def forget(
    directory: Folder,
    sample: Annotated[list[str] | None, typer.Option(metavar="ID", help="All samples of that id; may be given again.")] = None,
    row: Annotated[list[int] | None, typer.Option(metavar="N", help="The sample at that global row; may be given again.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Delete input, id, label and evidence of samples for ever; they keep their places in the order and weigh nothing.

    Asks no teacher. The run in DIR must not be running. The source still holds the samples: take them out there first. Models that
    learnt from them keep what they learnt.
    """
    import os
    import secrets
    import time

    from pipeline.errors import ConfigError
    from workers.driver.folder import Holder, RunFolder
    from workers.driver.holding import holding_labels
    from workers.driver.labels import store_url_in
    from workers.labelling.forgetting import forget as forget_samples

    if not sample and not row:
        raise ConfigError("forget", "no samples named", "--sample ID or --row N", "`kdpipe labels show DIR` shows both")
    folder, store = RunFolder.existing(directory), open_labels(directory)
    with Holder(folder), holding_labels(folder, store_url_in(folder), say=warn):
        done = forget_samples(
            store,
            samples=sample or (),
            rows=row or (),
            holder=f"forget pid {os.getpid()}",
            nonce=secrets.token_hex(16),
            now_unix_s=time.time(),
        )
    typer.echo(json.dumps(asdict(done)) if as_json else "\n".join(_lines(done)))


def _lines(done: "Forgotten") -> "Iterator[str]":
    for row in done.rows:
        yield f"forgotten: row {row}"
    for row in done.before:
        yield f"forgotten before: row {row}"
    yield f"{len(done.rows):,} samples, {done.shards:,} shards written anew; deleted {done.objects:,} objects, {done.bytes:,} bytes"
