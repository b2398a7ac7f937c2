"""`kdpipe labels verify`: every byte against the log."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels
from workers.commands.labels.progress import bar

if TYPE_CHECKING:
    from pipeline.labels.verify import BadShard, Verification


def verify(directory: Folder, as_json: AsJson = False) -> None:
    """Check the log against itself and every committed shard, byte by byte, against the log; exit 4 if something is bad."""
    from pipeline.errors import LabelStoreError
    from pipeline.labels.verify import verify as verify_labels
    from workers.driver.folder import RunFolder, write_json

    folder = RunFolder.existing(directory)
    with bar(directory, "verify") as progress:
        found = verify_labels(open_labels(directory), progress=progress)
    if found.bad:
        write_json(folder.bad_shards_file, [bad.shard for bad in found.bad])
    else:
        folder.bad_shards_file.unlink(missing_ok=True)
    typer.echo(json.dumps(asdict(found)) if as_json else "\n".join(_lines(found)))
    if not found.sound:
        raise typer.Exit(LabelStoreError.exit_code)


def _lines(found: "Verification") -> list[str]:
    lines = [f"bad: {bad.object}{_committed_as(bad)} ({bad.rows:,} rows): {bad.problem}" for bad in found.bad]
    lines += [f"log: {problem}" for problem in found.problems]
    if found.orphans:
        lines.append(
            f"{found.orphans:,} objects ({found.orphan_bytes:,} bytes) that the log does not name: attempts that were not committed"
        )
    verdict = "all sound" if found.shards else "nothing is labelled yet"
    if found.bad:
        verdict = f"{len(found.bad)} bad; `kdpipe labels repair DIR` or the next `kdpipe run` labels them again"
    elif found.problems:
        verdict = "the log contradicts itself; restore it from a copy, or begin anew with `kdpipe clean DIR --labels`"
    left = f"; {found.rows_left:,} planned rows to label" if found.rows_left else ""
    return [*lines, f"{found.shards:,} shards, {found.rows:,} rows, {found.windows:,} windows: {verdict}{left}"]


def _committed_as(bad: "BadShard") -> str:
    return "" if bad.object == bad.shard else f", in the place of {bad.shard}"
