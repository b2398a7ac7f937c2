"""The database: its tables, and how it is opened.

SQLite in WAL mode by default, or PostgreSQL by a URL; everything here is plain SQLAlchemy Core. One writer thread a process
(`writer`) is the only one to use it once the server runs. The rollouts' truth is their event log; a device is one row,
its present assignment included, so that one update moves both.

Always holds: every transaction begins by locking the one row of `changes`, so transactions of all replicas come one after
another and each sees all that went before; a row that changed carries the number of the change, so a replica reads what
others changed by asking for higher numbers.
"""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
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
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from pipeline.errors import FleetError

SCHEMA_VERSION = 4
GROWN_FROM = ("2", "3")
"""A database of these versions lacks whole tables only, and gets them when it is opened."""
BUSY_S = 5
"""How long a transaction waits for those of other replicas."""

_MAKING = 0x6B647069
"""Key of the lock under which the tables are made."""

metadata = MetaData()

facts = Table("facts", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))

changes = Table("changes", metadata, Column("id", Integer, primary_key=True), Column("revision", BigInteger, nullable=False))

leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("term", BigInteger, nullable=False),
    Column("holder", String(80), nullable=False),
    Column("beats", BigInteger, nullable=False),
)

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
    Column("revision", BigInteger, nullable=False, index=True),
)

revoked_operators = Table(
    "revoked_operators",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("revoked_s", Float(53), nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
)

seen = Table(
    "seen",
    metadata,
    Column("device_id", String(63), primary_key=True),
    Column("telling", BigInteger, nullable=False, index=True),
    Column("at_s", Float(53), nullable=False),
    Column("ago_s", Float(53), nullable=False),
)

served = Table(
    "served",
    metadata,
    Column("device_id", String(63), primary_key=True),
    Column("told_s", Float(53), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("answers", BigInteger, nullable=False),
    Column("confidence_mean", Float(53), nullable=False),
    Column("latency_p50_ms", Float(53), nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("agreed", BigInteger, nullable=False),
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
    Column("revision", BigInteger, nullable=False, index=True),
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
            f"restore it from a backup, or use another folder or --database-url (sqlite:///FILE, postgresql://USER@HOST/NAME)"
        )


def database_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'orchestrator.db'}"


def open_database(url: str) -> Engine:
    """The engine, its tables made where they are missing. Safe to call by several replicas at once. Raises DatabaseUnusableError."""
    shown = url
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        engine = _engine(make_url(url).set(drivername="postgresql+psycopg") if url.startswith("postgresql:") else make_url(url))
    except (ArgumentError, NoSuchModuleError) as error:
        raise DatabaseUnusableError("--database-url", f"{error}"[:200]) from error
    try:
        found = _make_tables(engine)
    except DatabaseError as error:
        engine.dispose()
        raise DatabaseUnusableError(shown, " ".join(str(error.orig).split())[:200]) from error
    if found != str(SCHEMA_VERSION):
        engine.dispose()
        raise DatabaseUnusableError(shown, f"schema version {found}")
    return engine


def clock_of(connection: Connection) -> float | None:
    """PostgreSQL's Unix time. None on SQLite: its replicas are on one machine, and have one clock."""
    if connection.dialect.name != "postgresql":
        return None
    return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())


def _engine(url: URL) -> Engine:
    dialect = url.get_backend_name()
    if dialect == "sqlite":
        engine = create_engine(url)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if dialect == "postgresql":
        # A replica that freezes inside a transaction must not hold up the others: the server ends its transaction.
        limits = f"-c lock_timeout={BUSY_S}s -c idle_in_transaction_session_timeout={BUSY_S}s -c synchronous_commit=on"
        return create_engine(url, pool_size=1, max_overflow=1, connect_args={"connect_timeout": BUSY_S, "options": limits})
    raise DatabaseUnusableError("--database-url", f"a database of kind {dialect!r}")


def _make_tables(engine: Engine) -> str:
    """Make what is missing; returns the schema's version."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MAKING})
        if not inspect(connection).has_table(facts.name):
            metadata.create_all(connection)
            connection.execute(insert(facts).values(name="schema_version", value=str(SCHEMA_VERSION)))
            connection.execute(insert(changes).values(id=1, revision=0))
            connection.execute(insert(leadership).values(id=1, term=0, holder="", beats=0))
        found = str(connection.scalar(select(facts.c.value).where(facts.c.name == "schema_version")))
        if found not in GROWN_FROM:
            return found
        metadata.create_all(connection)
        connection.execute(update(facts).where(facts.c.name == "schema_version").values(value=str(SCHEMA_VERSION)))
        return str(SCHEMA_VERSION)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy says BEGIN itself, below; the driver's own guess breaks savepoints
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # a call is answered after its commit: that must survive a power cut
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """WAL from now on. Where others open the same new file, SQLite refuses at once, whatever `busy_timeout` says."""
    given_up_s = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > given_up_s:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
