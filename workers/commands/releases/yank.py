"""`kdpipe releases yank`: no device installs it any more."""

import json
import os
from typing import Annotated

import typer

from workers.commands.releases.arguments import AsJson, Folder, Name
from workers.commands.repository import repository


def yank(
    directory: Folder,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever looks later; signed with the rest.")],
    as_json: AsJson = False,
) -> None:
    """Take a release back: devices never install it again, a rollout to it is refused, those that run it go on."""
    from datetime import UTC, datetime

    from pipeline.errors import ConfigError
    from pipeline.releases.keys import Unlock
    from pipeline.releases.signer import ReleaseSigner
    from workers.driver.catalogue import find, releases_of, running_of
    from workers.driver.publishing import publish

    if not reason.strip():
        raise ConfigError("--reason", "nothing", "why it is taken back: it is signed and stays", "`kdpipe releases yank --help`")
    folder, unlock, now = repository(directory), Unlock(environment=os.environ), datetime.now(UTC)
    release = find(releases_of(folder), name)
    metadata = ReleaseSigner.open(folder.keys, unlock).yank(release.path, reason=reason, now=now)
    done = publish(folder, metadata, unlock=unlock, now=now)
    running = running_of(folder)
    devices = None if running is None else sum(found.by_digest.get(release.digest, 0) for found in running.values())
    signed = reason if release.yank is None else release.yank.reason
    if as_json:
        facts = {"path": release.path, "digest": release.digest, "reason": signed, "already": release.yank is not None}
        typer.echo(json.dumps({**facts, "published": done.name.lower(), "devices": devices}))
    else:
        already = f"was yanked already ({signed}); a reason that is signed stays"
        typer.echo(f"{release.path} {already}" if release.yank else f"yanked {release.path}: {signed}")
        typer.echo(done.value)
        if devices:
            still = "1 device still runs it and goes on" if devices == 1 else f"{devices:,} devices still run it and go on"
            typer.echo(f"{still}; `kdpipe rollout start` brings another release")
        elif devices == 0:
            typer.echo("no device runs it")
