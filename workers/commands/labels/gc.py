"""`kdpipe labels gc`: free the bytes that no reader can need."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels, warn

if TYPE_CHECKING:
    from pipeline.labels.garbage import Garbage

KINDS = {
    "attempts": "attempts that were never committed",
    "dropped": "shards that the retention policy lets go of",
    "replaced": "bad shards that were labelled again",
    "log": "log objects that a manifest replaced",
    "unfinished": "files that a crash left half written",
}


def gc(
    directory: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List every object with its bytes; delete nothing.")] = False,
    keep_bytes: Annotated[
        int | None, typer.Option(help="Bytes of labels to keep, the newest windows; labelling.keep_bytes by default.", min=0)
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(help="Days to keep a generation's labels; labelling.keep_days by default.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete what no reader can need: lost attempts, shards beyond the retention policy, replaced shards and log objects.

    The windows of the generation that ended last always stay. The run in DIR must not be running; while a generation of it is open,
    the policy waits. Labels that went are not labelled again.
    """
    import os
    import secrets
    import time

    from pipeline.labels.log import LogReader
    from pipeline.labels.retention import Retention
    from workers.driver.folder import Holder, RunFolder
    from workers.driver.holding import holding_labels
    from workers.driver.labels import store_url_in
    from workers.driver.records import open_generation
    from workers.driver.request import RunRequest
    from workers.labelling.collecting import collect, would_collect

    folder, store = RunFolder.existing(directory), open_labels(directory)
    section = RunRequest.again(folder).run.labelling
    days = section.keep_days if keep_days is None else keep_days
    policy = Retention(
        keep_bytes=section.keep_bytes if keep_bytes is None else keep_bytes, keep_s=None if days is None else days * 24 * 3600.0
    )
    with Holder(folder):
        opened = open_generation(folder)
        allowed = Retention() if opened else policy
        if dry_run or not LogReader(store).refresh().log:
            found = would_collect(store, allowed, now_unix_s=time.time())
        else:
            nonce, holder = secrets.token_hex(16), f"gc pid {os.getpid()}"
            with holding_labels(folder, store_url_in(folder), say=warn):
                found = collect(store, allowed, holder=holder, nonce=nonce, now_unix_s=time.time())
    if as_json:
        kinds = {name: dict(objects) for name, objects in vars(found).items()}
        typer.echo(json.dumps(kinds | {"objects": found.objects, "bytes": found.bytes, "deleted": not dry_run}))
        return
    if opened and policy != Retention():
        warn(f"generation {opened.generation} is open: its students may still need what the policy would let go of")
    typer.echo("\n".join(_lines(found, dry_run=dry_run)))


def _lines(found: "Garbage", *, dry_run: bool) -> Iterator[str]:
    for name, objects in vars(found).items():
        if dry_run:
            yield from (f"{size:>14,}  {key}" for key, size in objects.items())
        if objects:
            yield f"{sum(objects.values()):>14,} bytes in {len(objects):,} {KINDS[name]}"
    if not found.objects:
        yield "nothing to delete"
    else:
        yield f"{'would delete' if dry_run else 'deleted'} {found.objects:,} objects, {found.bytes:,} bytes"
