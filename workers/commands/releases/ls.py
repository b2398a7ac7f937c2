"""`kdpipe releases ls`: every release, its state, and where it runs."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from workers.commands.releases.arguments import AsJson, Folder
from workers.commands.repository import repository
from workers.commands.tables import table_console

if TYPE_CHECKING:
    from workers.driver.catalogue import Release, Running


def ls(directory: Folder, as_json: AsJson = False) -> None:
    """List releases with their state, and, where an orchestrator answers, the populations whose devices run them."""
    from workers.driver.catalogue import releases_of, running_of

    folder = repository(directory)
    releases, running = releases_of(folder), running_of(folder)
    if as_json:
        typer.echo(json.dumps({"releases": [_facts(release, running) for release in releases], "running_is_known": running is not None}))
        return
    _print(releases, running)
    if running is None:
        typer.echo("no orchestrator answers: which devices run them is not known")


def _facts(release: "Release", running: "Mapping[str, Running] | None") -> dict[str, object]:
    return {
        "path": release.path,
        "digest": release.digest,
        "state": release.state,
        "length": release.target.length if release.target else None,
        "generation": release.target.generation if release.target else None,
        "yank": asdict(release.yank) if release.yank else None,
        "running": None if running is None else _counts(release, running),
    }


def _counts(release: "Release", running: "Mapping[str, Running]") -> dict[str, int]:
    return {name: found.by_digest[release.digest] for name, found in running.items() if release.digest in found.by_digest}


def _print(releases: "list[Release]", running: "Mapping[str, Running] | None") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("release", "sha256", "bytes", "generation", "state", "runs on"):
        table.add_column(column, overflow="fold")
    for release in releases:
        target = release.target
        counts = _counts(release, running or {})
        where = ", ".join(f"{name} {count} of {(running or {})[name].devices}" for name, count in counts.items())
        state = f"{release.state}: {release.yank.reason}" if release.yank else release.state
        bytes_, generation = (f"{target.length:,}", str(target.generation)) if target else ("-", "-")
        table.add_row(release.path.removeprefix("releases/").removesuffix(".kdpb"), release.digest[:12], bytes_, generation, state, where)
    table_console().print(table)
