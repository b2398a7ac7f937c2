"""The database: its tables, and how it is opened.

SQLite in WAL mode by default; everything here is plain SQLAlchemy Core, so that another database is a URL. One writer thread
(`writer`) is the only one to use it once the server runs. The rollouts' truth is their event log; a device is one row,
its present assignment included, so that one update moves both.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.exc import DatabaseError

from pipeline.errors import FleetError

SCHEMA_VERSION = 2

metadata = MetaData()

facts = Table("facts", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))

tokens = Table(
    "tokens",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("population", String(41), nullable=False),
    Column("expires_s", Float(53), nullable=False),
    Column("device_id", String(63)),
    Column("key_hash", String(64)),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String(63), primary_key=True),
    Column("population", String(41), nullable=False, index=True),
    Column("hardware", String(41), nullable=False),
    Column("agent_version", String(41), nullable=False),
    Column("enrolled_s", Float(53), nullable=False),
    Column("is_revoked", Boolean, nullable=False),
    Column("last_seen_s", Float(53), nullable=False),
    Column("running_digest", String(64), nullable=False),
    Column("clock_wrong", Boolean, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("device_generation", BigInteger, nullable=False),
    Column("state", Integer, nullable=False),
    Column("failure_code", String(64), nullable=False),
    Column("progress", String(20), nullable=False),
    Column("progress_s", Float(53), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("target", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("expires_s", Float(53), nullable=False),
    Column("labels", Text, nullable=False),
    Column("runtime", String(41), nullable=False),
    Column("free_memory_bytes", BigInteger, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("device_id", String(63), primary_key=True),
    Column("incarnation", BigInteger, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("received_s", Float(53), nullable=False, index=True),
    Column("generation", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("state", Integer, nullable=False),
    Column("failure_code", String(64), nullable=False),
    Column("detail", String(500), nullable=False),
    Column("shadow", Text),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout_id", String(80), primary_key=True),
    Column("population", String(41), nullable=False, index=True),
    Column("created_s", Float(53), nullable=False),
    Column("ended_s", Float(53)),
    Column("state", String(20), nullable=False),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    Column("rollout_id", String(80), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("at_s", Float(53), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("facts", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)


class DatabaseUnusableError(FleetError):
    """The orchestrator's database does not open, or another version of kdpipe made it."""

    def __init__(self, url: str, found: str) -> None:
        super().__init__(url, found)
        self.url, self.found = url, found

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.found}; expected a database of schema version {SCHEMA_VERSION}; "
            f"restore it from a backup or use another folder"
        )


def database_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'orchestrator.db'}"


def open_database(url: str) -> Engine:
    """The engine, its tables made where they are missing. Raises DatabaseUnusableError."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        with engine.begin() as connection:
            metadata.create_all(connection)
            found = connection.scalar(select(facts.c.value).where(facts.c.name == "schema_version"))
            if found is None:
                connection.execute(insert(facts).values(name="schema_version", value=str(SCHEMA_VERSION)))
    except DatabaseError as error:
        engine.dispose()
        raise DatabaseUnusableError(url, str(error.orig)[:200]) from error
    if found not in (None, str(SCHEMA_VERSION)):
        engine.dispose()
        raise DatabaseUnusableError(url, f"schema version {found}")
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy says BEGIN itself, below; the driver's own guess breaks savepoints
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a call is answered after its commit: that must survive a power cut
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
