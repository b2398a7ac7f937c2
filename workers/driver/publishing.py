"""Making newly signed releases visible from outside of a run: by its orchestrator where one lives, else in its folder.

An orchestrator holds the repository in memory and signs on with what it has, so nobody writes beside a live one.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

from pipeline.errors import FolderBusyError
from pipeline.releases.keys import ONLINE, Unlock
from pipeline.releases.online import OnlineRepository
from workers.driver.folder import RunFolder, read_json
from workers.orchestrator.client import Operator


class Published(StrEnum):
    """Who made it visible, for a person."""

    ORCHESTRATOR = "published by the running orchestrator: devices see it at their next look"
    FOLDER = "no orchestrator runs: only the folder was changed; devices see it once `kdpipe run` starts one here"


def publish(folder: RunFolder, release_metadata: bytes, *, unlock: Unlock, now: datetime) -> Published:
    """Publish metadata that the release key signed. Raises FleetError where a live orchestrator cannot be reached or refuses."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(orchestrator_kept_out(folder))
        except FolderBusyError:
            with operator_of(folder) as operator:
                operator.publish(release_metadata)
            return Published.ORCHESTRATOR
        OnlineRepository(folder.releases, folder.keys / ONLINE, unlock).publish(release_metadata, None, now=now)
        return Published.FOLDER


def operator_of(folder: RunFolder) -> Operator:
    """The operator of the run's orchestrator. Raises OrchestratorUnreachableError where none ever ran."""
    origin = read_json(folder.origin_file)
    return Operator.open(folder.fleet, host=origin["run"]["fleet"]["host"] if origin else "127.0.0.1")


@contextlib.contextmanager
def orchestrator_kept_out(folder: RunFolder) -> Iterator[None]:
    """Hold the orchestrator's folder, so that none starts meanwhile. Raises FolderBusyError where one lives."""
    lock = folder.fleet / "lock"
    if not lock.exists():
        yield
        return
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderBusyError(str(folder.root), f"its orchestrator, {file.read(100).strip()}") from error
        yield
