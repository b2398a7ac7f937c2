"""`kdpipe labels repair`: what went bad, labelled again in its place."""

import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels, warn
from workers.commands.labels.progress import bar

if TYPE_CHECKING:
    from workers.driver.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was done."""

    shards: tuple[str, ...]
    rows: int
    """That the teacher was asked about."""
    rows_forgotten: int
    teacher_s: float


def repair(
    directory: Folder,
    forget: Annotated[
        bool, typer.Option("--forget", help="Rows that can't be labelled again get weight 0 for ever; their places stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look for bad shards as `verify` does, and label them again where they are; trains nothing.

    Source and teacher are those of the last `kdpipe run` in DIR, which must not be running. Ids and positions stay.
    """
    from pipeline.errors import LabelStoreError
    from pipeline.labels.verify import verify
    from workers.driver.folder import Holder, RunFolder
    from workers.driver.holding import holding_labels
    from workers.driver.labels import store_url_in

    folder = RunFolder.existing(directory)
    with Holder(folder), holding_labels(folder, store_url_in(folder), say=warn):
        with bar(directory, "verify") as progress:
            found = verify(open_labels(directory), progress=progress)
        done = _repair(folder, [bad.shard for bad in found.bad], forget=forget) if found.bad else None
        folder.bad_shards_file.unlink(missing_ok=True)
    if as_json:
        typer.echo(json.dumps(asdict(done) if done else None))
    elif done is None:
        typer.echo(f"{found.shards:,} shards, {found.rows:,} rows: nothing is bad")
    else:
        for shard in done.shards:
            typer.echo(f"labelled again: {shard}")
        forgotten = f"; {done.rows_forgotten:,} rows could not be and weigh nothing from now on" if done.rows_forgotten else ""
        typer.echo(f"{len(done.shards):,} shards, the teacher was asked about {done.rows:,} rows, {done.teacher_s:,.2f} s{forgotten}")
    if found.problems:
        typer.echo("\n".join(f"log: {problem}" for problem in found.problems), err=True)
        raise typer.Exit(LabelStoreError.exit_code)


def _repair(folder: "RunFolder", bad: list[str], *, forget: bool) -> Repaired:
    from workers.driver.cluster import Cluster
    from workers.driver.folder import write_json
    from workers.driver.repairing import label_again, teachers_on
    from workers.driver.reporter import Reporter
    from workers.driver.request import RunRequest
    from workers.driver.stopping import StoppedError, stop_on_signals

    request = RunRequest.again(folder)
    write_json(folder.bad_shards_file, bad)  # if this ends before its end, the next run goes on with it
    with (
        stop_on_signals() as stop,
        contextlib.closing(Cluster(request.run.ray, keys=folder.keys, stop=stop)) as cluster,
        Reporter(folder, stream=sys.stderr, writes_status=False) as reporter,
        contextlib.suppress(KeyboardInterrupt),
    ):
        outcome = label_again(request, bad, open_crew=teachers_on(cluster), reporter=reporter, stop=stop, forget=forget)
    if stop.is_set():
        raise StoppedError(f"kdpipe labels repair {folder.root}")
    return Repaired(
        shards=outcome.repaired, rows=outcome.teacher_calls, rows_forgotten=outcome.rows_forgotten, teacher_s=round(outcome.teacher_s, 3)
    )
