"""The rollouts' logs as the database has them, read without the orchestrator, whose word an audit does not take.

Reads only, also while the orchestrator runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import FleetError
from pipeline.rollout.events import Event, RolloutLogBrokenError
from workers.orchestrator import tables
from workers.orchestrator.roster import read_events


class LogbookUnreadableError(FleetError):
    """There is no database of an orchestrator, or it does not open."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(where, found)
        self.where, self.found = where, found

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected an orchestrator's database; `kdpipe audit verify --database URL` names another one"


@dataclass(frozen=True, kw_only=True)
class StoredLog:
    """One rollout's log, and the state that the database keeps beside it."""

    rollout_id: str
    state: str
    """Empty where the database has events of a rollout that it does not list."""
    events: list[Event]
    problem: RolloutLogBrokenError | None = None
    """Of an event that does not even read."""


def sqlite_url(folder: Path) -> str:
    """Of the database in an orchestrator's folder, read only. Raises LogbookUnreadableError."""
    path = Path(tables.database_url(folder).removeprefix("sqlite:///"))
    if not path.is_file():
        raise LogbookUnreadableError(str(path), "no such file")
    return f"sqlite:///file:{path}?mode=ro&uri=true"


def stored_logs(url: str) -> Iterator[StoredLog]:
    """Every rollout that the database knows, in the order of their names. Raises LogbookUnreadableError."""
    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise LogbookUnreadableError("--database", f"{error}"[:200]) from error
    try:
        with engine.connect() as connection:
            rollouts, events = tables.rollouts, tables.rollout_events
            states: dict[str, str] = {
                row.rollout_id: row.state for row in connection.execute(select(rollouts.c.rollout_id, rollouts.c.state))
            }
            named = set(connection.execute(select(events.c.rollout_id).distinct()).scalars()) | set(states)
            for rollout_id in sorted(named):
                state = states.get(rollout_id, "")
                try:
                    yield StoredLog(rollout_id=rollout_id, state=state, events=read_events(connection, rollout_id))
                except RolloutLogBrokenError as error:
                    yield StoredLog(rollout_id=rollout_id, state=state, events=[], problem=error)
    except SQLAlchemyError as error:
        raise LogbookUnreadableError(engine.url.render_as_string(), f"{getattr(error, 'orig', None) or error}"[:200]) from error
    finally:
        engine.dispose()
