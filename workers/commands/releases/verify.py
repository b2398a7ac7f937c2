"""`kdpipe releases verify`: from the first root to the last golden answer."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from workers.commands.releases.arguments import AsJson, Folder
from workers.commands.repository import repository


def verify(
    directory: Folder,
    names: Annotated[list[str] | None, typer.Argument(metavar="[RELEASE...]", help="Releases to check; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check signatures, terms, bundles, deltas, and golden samples in a device's model process again; exit 7 if something is bad."""
    from datetime import UTC, datetime

    from pipeline.errors import ReleaseError
    from pipeline.releases.published import read_published
    from workers.driver.catalogue import find, releases_of
    from workers.driver.rechecking import check, expired

    folder = repository(directory)
    published, releases = read_published(folder.releases), releases_of(folder)
    problems = expired(published, now=datetime.now(UTC))
    if not as_json:
        typer.echo(f"signatures sound: root {published.root.signed.version}, snapshot {published.snapshot.signed.version}")
        for problem in problems:
            typer.echo(f"bad: {problem}; `kdpipe keys show DIR` says what to do")
    found = []
    for checked in check([find(releases, name) for name in names] if names else releases, folder.releases / "bundles"):
        found.append(checked)
        if not as_json:
            verdict = f"bad: {checked.problem}" if checked.problem else f"sound, {checked.golden} golden answers within tolerance"
            typer.echo(f"{checked.path}: {verdict}")
    if as_json:
        typer.echo(json.dumps({"expired": problems, "releases": [asdict(checked) for checked in found]}))
    if problems or any(checked.problem for checked in found):
        raise typer.Exit(ReleaseError.exit_code)
