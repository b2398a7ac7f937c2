"""One writer: shared transactions, refusals that stand alone, and a roster that never shows what was not committed."""

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, func, select, text

from pipeline.errors import FleetError
from workers.orchestrator import tables
from workers.orchestrator.roster import DeviceRow, Roster
from workers.orchestrator.writer import Session, StoreUnavailableError, Writer, WriterClosedError

ROW = DeviceRow(device_id="d-1", population="mail", hardware="x86")


@pytest.fixture(name="database")
def _database(tmp_path: Path) -> Iterator[Engine]:
    engine = tables.open_database(tables.database_url(tmp_path))
    yield engine
    engine.dispose()


@pytest.fixture(name="commits")
def _commits() -> list[int]:
    return []


@pytest.fixture(name="roster")
def _roster() -> Roster:
    return Roster()


@pytest.fixture(name="writer")
def _writer(database: Engine, roster: Roster, commits: list[int]) -> Iterator[Writer]:
    writer = Writer(database, roster, on_commit=lambda jobs, seconds: commits.append(jobs))
    yield writer
    writer.close()


def stored(database: Engine, device: str = "d-1") -> str | None:
    with database.begin() as connection:
        return connection.scalar(select(tables.devices.c.hardware).where(tables.devices.c.device_id == device))


def blocked(writer: Writer) -> threading.Event:
    """Hold the writer inside a transaction until the event is set."""
    inside, release = threading.Event(), threading.Event()

    def job(session: Session) -> None:
        inside.set()
        assert release.wait(10)

    writer.submit(job)
    assert inside.wait(10)
    return release


def rename(name: str):
    def job(session: Session) -> str:
        row = session.device("d-1")
        assert row is not None
        session.put_device(replace(row, hardware=row.hardware + name))
        return row.hardware

    return job


def test_what_is_answered_is_in_the_database_and_then_in_the_roster(writer: Writer, database: Engine, roster: Roster) -> None:
    writer.submit(lambda session: session.add_device(ROW)).result(10)
    assert stored(database) == "x86"
    assert roster.devices == {"d-1": ROW}


def test_calls_that_come_together_share_a_transaction_and_see_each_other(writer: Writer, database: Engine, commits: list[int]) -> None:
    writer.submit(lambda session: session.add_device(ROW)).result(10)
    release = blocked(writer)
    futures = [writer.submit(rename(name)) for name in "abc"]
    release.set()
    assert [future.result(10) for future in futures] == ["x86", "x86a", "x86ab"]
    assert stored(database) == "x86abc"
    assert max(commits) >= 3


def test_a_refused_call_is_undone_alone(writer: Writer, database: Engine, roster: Roster) -> None:
    writer.submit(lambda session: session.add_device(ROW)).result(10)

    def refuse(session: Session) -> None:
        session.put_device(replace(ROW, hardware="evil"))
        session.add_device(replace(ROW, device_id="d-2"))
        raise FleetError("no")

    release = blocked(writer)
    before, refused, after = writer.submit(rename("a")), writer.submit(refuse), writer.submit(rename("b"))
    release.set()
    wait([before, refused, after], timeout=10)
    with pytest.raises(FleetError, match="no"):
        refused.result()
    assert stored(database) == "x86ab"
    assert stored(database, "d-2") is None
    assert set(roster.devices) == {"d-1"}


def test_a_bug_in_one_call_fails_that_call_only(writer: Writer) -> None:
    with pytest.raises(ZeroDivisionError):
        writer.submit(lambda session: 1 / 0).result(10)
    assert writer.submit(lambda session: 7).result(10) == 7


def test_a_database_error_fails_every_call_of_the_transaction_and_changes_nothing(writer: Writer, database: Engine, roster: Roster) -> None:
    writer.submit(lambda session: session.add_device(ROW)).result(10)
    release = blocked(writer)
    futures = [writer.submit(rename("a")), writer.submit(lambda session: session.connection.execute(text("SELECT * FROM nowhere")))]
    release.set()
    for future in futures:
        with pytest.raises(StoreUnavailableError, match="no such table"):
            future.result(10)
    assert stored(database) == "x86"
    assert roster.devices["d-1"].hardware == "x86"
    assert writer.submit(rename("b")).result(10) == "x86"


def test_a_commit_that_fails_is_never_answered_as_done(writer: Writer, database: Engine, roster: Roster) -> None:
    writer.submit(lambda session: session.add_device(ROW)).result(10)

    def full(connection: object) -> None:
        raise OSError("disk full")

    event.listen(database, "commit", full)
    with pytest.raises(StoreUnavailableError, match="disk full"):
        writer.submit(rename("a")).result(10)
    event.remove(database, "commit", full)
    assert stored(database) == "x86"
    assert roster.devices["d-1"].hardware == "x86"


def test_closing_finishes_what_was_submitted_and_refuses_what_comes_later(database: Engine) -> None:
    writer = Writer(database, Roster())
    release = blocked(writer)
    futures = [writer.submit(lambda session, n=n: n) for n in range(5)]  # type: ignore[misc]
    closer = threading.Thread(target=writer.close)
    closer.start()
    release.set()
    closer.join(10)
    assert [future.result(0) for future in futures] == list(range(5))
    with pytest.raises(WriterClosedError):
        writer.submit(lambda session: None)


def test_a_database_of_another_version_is_refused(tmp_path: Path, database: Engine) -> None:
    with database.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(tables.facts)) == 1
        connection.execute(tables.facts.update().values(value="99"))
    with pytest.raises(tables.DatabaseUnusableError, match="version 99"):
        tables.open_database(tables.database_url(tmp_path))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.db").write_bytes(b"not a database, and longer than a header" * 50)
    with pytest.raises(tables.DatabaseUnusableError, match="not a database"):
        tables.open_database(tables.database_url(tmp_path))
