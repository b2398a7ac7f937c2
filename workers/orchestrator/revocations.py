"""Names that no operator may have any more, as the database in an orchestrator's folder has them. Reads only, also while it runs."""

from pathlib import Path

from sqlalchemy import create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from workers.orchestrator import tables
from workers.orchestrator.logbook import LogbookUnreadableError, sqlite_url


def is_revoked(folder: Path, name: str) -> bool | None:
    """Whether the operator's name was revoked; None where this folder has no database that says so, as with `--database-url`."""
    try:
        engine = create_engine(sqlite_url(folder))
    except LogbookUnreadableError:
        return None
    column = tables.revoked_operators.c.name
    try:
        with engine.connect() as connection:
            return connection.scalar(select(column).where(column == name)) is not None
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()
