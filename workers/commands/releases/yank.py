"""`kdpipe releases yank`: no device installs it any more."""

import json
import os
from typing import Annotated

import typer

from workers.commands.releases.arguments import AsJson, Folder, Name, repository


def yank(
    directory: Folder,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever looks later; signed with the rest.")],
    as_json: AsJson = False,
) -> None:
    """Take a release back: devices never install it again, a rollout to it is refused, those that run it go on."""
    from datetime import UTC, datetime

    from pipeline.releases.keys import Unlock
    from pipeline.releases.signer import ReleaseSigner
    from workers.driver.catalogue import find, releases_of
    from workers.driver.publishing import publish

    folder, unlock, now = repository(directory), Unlock(environment=os.environ), datetime.now(UTC)
    release = find(releases_of(folder), name)
    metadata = ReleaseSigner.open(folder.keys, unlock).yank(release.path, reason=reason, now=now)
    done = publish(folder, metadata, unlock=unlock, now=now)
    if as_json:
        typer.echo(json.dumps({"path": release.path, "digest": release.digest, "reason": reason, "published": done.name.lower()}))
    else:
        typer.echo(f"yanked {release.path}: {reason}")
        typer.echo(done.value)
