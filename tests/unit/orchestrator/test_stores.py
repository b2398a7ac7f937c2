"""What every database that the orchestrator runs on must do; SQLite and a real PostgreSQL pass the same tests.

A replica here is a writer with a roster of its own on one shared database.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from pipeline.errors import FleetError
from pipeline.rollout.evidence import DeviceFacts, Evidence, Serving
from pipeline.rollout.plan import Plan
from pipeline.rollout.rollout import Rollout, RolloutState
from pipeline.rollout.steering import Action, advance, command, create
from workers.orchestrator import tables
from workers.orchestrator.enrolment import create_tokens, enrol
from workers.orchestrator.leadership import FencedError, Leadership, replica_name
from workers.orchestrator.presence import hear, newest, tell
from workers.orchestrator.refusals import TokenRefusedError
from workers.orchestrator.report_log import KEPT, KEPT_OF_A_DEVICE, forget_reports
from workers.orchestrator.roster import DeviceRow, Roster, read_rollout
from workers.orchestrator.served import Served, forget_served, read_served, write_served
from workers.orchestrator.writer import Session, StoreUnavailableError, Writer

ROW = DeviceRow(device_id="d-1", population="mail", hardware="x86", envelope=b"\x00\xff", clock_wrong=True, last_seen_s=1.0e9 + 0.123456)
PLAN = Plan(
    rollout_id="r1", population="mail", target="t", digest="a" * 64, salt="s", waves=(1.0,), soak_s=0.0, deadline_s=9.0, lost_after_s=9.0
)


class Replica:
    """Its part of an orchestrator that is about the database."""

    def __init__(self, url: str) -> None:
        self.now_s = 2.0e9
        self.database, self.roster, self.foreign = tables.open_database(url), Roster(lambda: self.now_s), 0
        with self.database.begin() as connection:
            self.roster.load(connection)
        self.writer = Writer(self.database, self.roster, on_foreign=self._hear)

    def do(self, job: Callable[[Session], object]) -> object:
        return self.writer.submit(job).result(20)

    def look(self) -> None:
        self.do(lambda session: None)

    def close(self) -> None:
        self.writer.close()
        self.database.dispose()

    def _hear(self) -> None:
        self.foreign += 1


@pytest.fixture(name="open_replica")
def _open_replica(store_url: str) -> Iterator[Callable[[], Replica]]:
    opened: list[Replica] = []

    def open_one() -> Replica:
        opened.append(Replica(store_url))
        return opened[-1]

    yield open_one
    for replica in opened:
        replica.close()


@pytest.fixture(name="replicas")
def _replicas(open_replica: Callable[[], Replica]) -> tuple[Replica, Replica]:
    return open_replica(), open_replica()


def report(device: str, incarnation: int, sequence: int, received_s: float) -> dict[str, object]:
    values = {"device_id": device, "incarnation": incarnation, "sequence": sequence, "received_s": received_s}
    return {**values, "generation": 1, "digest": "", "state": 1, "failure_code": "", "detail": "", "shadow": None}


def grow(session: Session) -> int:
    row = session.device("d-1")
    assert row is not None
    session.put_device(replace(row, generation=row.generation + 1))
    return row.generation + 1


def test_what_was_answered_is_there_when_it_is_opened_again(open_replica: Callable[[], Replica]) -> None:
    open_replica().do(lambda session: session.add_device(ROW))
    assert open_replica().roster.devices == {"d-1": ROW}


def test_each_replica_sees_what_the_other_committed(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    here.do(lambda session: session.add_device(ROW))
    assert there.roster.devices == {}
    assert there.do(grow) == 1, "a job begins with what others committed"
    assert (there.foreign, here.foreign) == (1, 0)
    here.look()
    assert here.roster.devices["d-1"].generation == 1
    here.look()
    assert here.foreign == 1, "nothing new is no news"


def test_no_change_is_lost_between_replicas_and_a_generation_is_given_once(replicas: tuple[Replica, Replica]) -> None:
    replicas[0].do(lambda session: session.add_device(ROW))
    given: list[int] = []

    def work(replica: Replica) -> None:
        futures = [replica.writer.submit(grow) for _ in range(40)]
        given.extend(future.result(60) for future in futures)

    threads = [threading.Thread(target=work, args=(replica,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == list(range(1, 81))


def test_a_token_is_used_once_whichever_replica_it_is_shown_to(replicas: tuple[Replica, Replica]) -> None:
    (token,) = replicas[0].writer.submit(lambda s: create_tokens(s, population="mail", count=1, expires_s=9.0)).result(20)

    def use(replica: Replica, key: str) -> object:
        return replica.do(lambda s: enrol(s, token=token, hardware="x86", agent_version="1", device_key_hash=key, now=1.0))

    first = use(replicas[0], "a" * 64)
    assert use(replicas[1], "a" * 64) == first
    with pytest.raises(TokenRefusedError):
        use(replicas[1], "b" * 64)


def test_a_rollout_is_followed_event_by_event(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    rollout, created = create(PLAN, now=1.0)
    here.do(lambda session: session.add_rollout(rollout, created))
    there.look()
    assert there.roster.rollouts == {"r1": rollout}
    approved, events = command(rollout, Action.APPROVE, now=2.0)
    here.do(lambda session: session.put_rollout(approved, events))
    there.look()
    assert there.roster.rollouts == {"r1": approved}
    assert approved.state is RolloutState.APPROVED


def test_an_event_that_was_tampered_with_is_not_followed(replicas: tuple[Replica, Replica], open_replica: Callable[[], Replica]) -> None:
    here, there = replicas
    rollout, created = create(PLAN, now=1.0)
    here.do(lambda session: session.add_rollout(rollout, created))
    there.look()
    approved, events = command(rollout, Action.APPROVE, now=2.0)
    here.do(lambda session: session.put_rollout(approved, events))
    with here.database.begin() as connection:
        connection.execute(tables.rollout_events.update().where(tables.rollout_events.c.sequence == 2).values(at_s=3.0))
    for replica in (there, open_replica()):
        replica.look()
        assert replica.roster.rollouts == {}
        assert "event 2" in str(replica.roster.broken["r1"].error)


def test_a_replica_that_missed_an_event_cannot_fork_the_log(replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without the lock and the look that begin each transaction: an event has one place, and it is taken."""
    here, there = replicas
    rollout, created = create(PLAN, now=1.0)
    here.do(lambda session: session.add_rollout(rollout, created))
    there.look()
    approved, events = command(rollout, Action.APPROVE, now=2.0)
    here.do(lambda session: session.put_rollout(approved, events))
    with monkeypatch.context() as blind:
        blind.setattr(there.roster, "catch_up", lambda connection: False)
        with pytest.raises(StoreUnavailableError):
            there.do(lambda session: session.put_rollout(*command(rollout, Action.ABORT_KEEP, now=3.0)))
    there.look()
    assert there.roster.rollouts == {"r1": approved}
    assert there.do(lambda session: read_rollout(session.connection, "r1")) == approved


def test_operators_at_two_replicas_write_one_log(replicas: tuple[Replica, Replica]) -> None:
    rollout, created = create(PLAN, now=1.0)
    approved, approval = command(rollout, Action.APPROVE, now=1.0)
    devices = {"d-1": DeviceFacts(hardware="x86")}
    running, started = advance(approved, Evidence(devices=devices, listening_since_s=1.0), now=1.0)
    replicas[0].do(lambda session: session.add_rollout(rollout, created))
    replicas[0].do(lambda session: session.put_rollout(running, approval + started))

    def turn(session: Session) -> None:
        known = session.all_rollouts()["r1"]
        session.put_rollout(*command(known, Action.RESUME if known.paused else Action.PAUSE, now=2.0))

    waiting = [replica.writer.submit(turn) for _ in range(10) for replica in replicas]
    wait(waiting, timeout=20)
    log = replicas[0].do(lambda session: read_rollout(session.connection, "r1"))
    assert isinstance(log, Rollout)
    assert log.sequence == running.sequence + 20, "each action is in the log once, each after another"


def test_a_revoked_operator_is_revoked_everywhere_and_for_ever(
    replicas: tuple[Replica, Replica], open_replica: Callable[[], Replica]
) -> None:
    for replica in replicas:
        replica.do(lambda session: session.revoke_operator("eve", now=1.0))
    assert [replica.roster.revoked_operators for replica in (*replicas, open_replica())] == [{"eve"}] * 3


def test_a_refused_job_is_undone_alone(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    here.do(lambda session: session.add_device(ROW))

    def refuse(session: Session) -> None:
        create_tokens(session, population="mail", count=3, expires_s=9.0)
        session.put_device(replace(ROW, hardware="evil"))
        raise FleetError("no")

    futures: list[Future[Any]] = [here.writer.submit(grow), here.writer.submit(refuse), here.writer.submit(grow)]
    wait(futures, timeout=20)
    assert [futures[0].result(), futures[2].result()] == [1, 2]
    there.look()
    assert there.roster.devices["d-1"] == replace(ROW, generation=2, last_seen_s=0.0)
    with here.database.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(tables.tokens)) == 0


def test_a_database_error_changes_nothing_and_the_next_transaction_works(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    here.do(lambda session: session.add_device(ROW))
    with pytest.raises(StoreUnavailableError):
        here.do(lambda session: session.connection.execute(text("SELECT * FROM nowhere")))
    with pytest.raises(StoreUnavailableError):
        here.do(lambda session: session.add_device(ROW))
    assert here.do(grow) == 1
    there.look()
    assert there.roster.devices["d-1"].generation == 1


def test_what_one_job_brings_and_no_database_takes_fails_that_job_alone(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    here.do(lambda session: session.add_device(ROW))
    held = threading.Event()
    jobs: list[Callable[[Session], object]] = [
        lambda session: held.wait(10),
        grow,
        lambda session: session.add_report(report("d-1", 1, 1, 1e9) | {"detail": "\ud800"}),
        grow,
        lambda session: session.connection.execute(insert(tables.changes).values(id=1, revision=0)),
        grow,
    ]
    done = [here.writer.submit(job) for job in jobs]
    held.set()
    wait(done, timeout=20)
    assert [future.exception() and type(future.exception()) for future in done[2::2]] == [StoreUnavailableError] * 2
    assert [future.result() for future in done[1::2]] == [1, 2, 3]
    there.look()
    assert there.roster.devices["d-1"].generation == 3


def told(at_s: float, answers: int = 7) -> Served:
    return Served(digest="a" * 64, told_s=at_s, serving=Serving(answers=answers, confidence_mean=0.5, latency_p50_ms=0.1 + 0.2))


def test_how_a_device_answers_is_one_value_that_a_late_call_never_sets_back(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    here.do(lambda s: write_served(s.connection, {"d-1": told(20.0), "d-2": told(20.0)}))
    there.do(lambda s: write_served(s.connection, {"d-1": told(10.0, answers=1), "d-2": told(30.0, answers=2), "d-3": told(30.0)}))
    here.do(lambda s: write_served(s.connection, {}))
    kept = {"d-1": told(20.0), "d-2": told(30.0, answers=2), "d-3": told(30.0)}
    assert here.do(lambda s: dict(read_served(s.connection))) == kept
    there.do(lambda s: tell(s.connection, {"d-1": 20.0}, now=20.0))
    after = here.writer.submit(lambda s: newest(s.connection)).result(20)
    there.do(lambda s: tell(s.connection, dict.fromkeys(("d-2", "d-3"), 30.0), now=30.0))
    assert here.do(lambda s: dict(read_served(s.connection, after=after))) == {name: kept[name] for name in ("d-2", "d-3")}
    here.do(lambda s: forget_served(s.connection, before_s=30.0))
    assert there.do(lambda s: set(dict(read_served(s.connection)))) == {"d-2", "d-3"}


def test_when_a_device_called_is_told_without_comparing_clocks(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    here.do(lambda s: tell(s.connection, {"d-1": 995.0, "d-2": 1000.5}, now=1000.0))
    heard = there.do(lambda s: hear(s.connection, after=0, now=20.0))
    assert heard == {"d-1": (15.0, 995.0), "d-2": (20.0, 1000.5)}
    last = there.writer.submit(lambda s: newest(s.connection)).result(20)
    assert there.do(lambda s: hear(s.connection, after=last, now=25.0)) == {}
    there.do(lambda s: tell(s.connection, {"d-1": 22.0}, now=25.0))
    here.do(lambda s: tell(s.connection, {}, now=1010.0))
    assert here.do(lambda s: hear(s.connection, after=last, now=1010.0)) == {"d-1": (1007.0, 22.0)}, "however far behind that clock is"


def test_a_device_that_reports_to_another_replica_has_called_just_now(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    here.do(lambda session: session.add_device(ROW))
    there.look()
    assert there.roster.seen == {}, "what it is assigned elsewhere is no call"
    here.do(lambda session: session.put_device(replace(ROW, incarnation=1, sequence=1)))
    there.now_s = 3.0e9
    there.look()
    assert (there.roster.seen["d-1"], there.roster.devices["d-1"].last_seen_s) == (3.0e9, 3.0e9)


def test_no_call_is_later_than_the_start_of_who_reads_of_it(open_replica: Callable[[], Replica]) -> None:
    ahead = open_replica()
    ahead.do(lambda session: session.add_device(replace(ROW, last_seen_s=2.5e9)))
    ahead.do(lambda s: tell(s.connection, {"d-1": 2.6e9}, now=2.6e9))
    assert open_replica().roster.seen == {"d-1": 2.0e9}


@pytest.mark.parametrize("version", tables.GROWN_FROM)
def test_a_database_of_a_version_before_gets_what_it_lacks_and_keeps_what_it_has(open_replica: Callable[[], Replica], version: str) -> None:
    old = open_replica()
    old.do(lambda session: session.add_device(ROW))
    with old.database.begin() as connection:
        for table in (tables.seen, tables.served)[: 4 - int(version)]:
            table.drop(connection)
        connection.execute(tables.facts.update().where(tables.facts.c.name == "schema_version").values(value=version))
    new = open_replica()
    assert new.roster.devices == {"d-1": ROW}
    new.do(lambda s: write_served(s.connection, {"d-1": told(1.0)}))


def test_many_that_open_an_empty_database_at_once_agree(store_url: str) -> None:
    made: list[Replica] = []
    threads = [threading.Thread(target=lambda: made.append(Replica(store_url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    for replica in made:
        replica.look()
        replica.close()


def test_a_database_of_another_version_is_refused(store_url: str, replicas: tuple[Replica, Replica]) -> None:
    with replicas[0].database.begin() as connection:
        connection.execute(tables.facts.update().where(tables.facts.c.name == "schema_version").values(value="99"))
    with pytest.raises(tables.DatabaseUnusableError, match="version 99"):
        tables.open_database(store_url)


class Watch:
    """A monotonic clock that a test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_one_leads_and_another_takes_over_only_after_its_patience(replicas: tuple[Replica, Replica]) -> None:
    watch = Watch()
    (here, there), (a, b) = replicas, (Leadership(name, patience_s=10.0, monotonic=watch) for name in "ab")
    assert here.do(lambda s: a.step(s.connection)) is True
    for _ in range(5):
        watch.now_s += 4.0
        assert there.do(lambda s: b.step(s.connection)) is False
        here.do(lambda s: a.step(s.connection))
    there.do(lambda s: b.step(s.connection))
    watch.now_s += 9.9
    assert there.do(lambda s: b.step(s.connection)) is False
    watch.now_s += 0.2
    assert there.do(lambda s: b.step(s.connection)) is True
    assert (a.term, b.term) == (1, 2), "the one that was silent does not know yet"


def test_a_write_under_an_old_term_is_refused_and_undone(replicas: tuple[Replica, Replica]) -> None:
    watch = Watch()
    (here, there), (a, b) = replicas, (Leadership(name, patience_s=1.0, monotonic=watch) for name in "ab")
    here.do(lambda s: a.step(s.connection))
    there.do(lambda s: b.step(s.connection))
    watch.now_s += 2.0
    there.do(lambda s: b.step(s.connection))

    def late(session: Session) -> None:
        session.add_device(ROW)
        a.check(session.connection)

    with pytest.raises(FencedError, match="term 2 of b; expected 1"):
        here.do(late)
    there.look()
    assert there.roster.devices == {}
    assert not a.leads
    there.do(lambda s: b.check(s.connection))


def test_who_resigns_is_followed_at_once_and_who_starts_again_does_not_wait_for_itself(replicas: tuple[Replica, Replica]) -> None:
    here, there = replicas
    a, b, again = Leadership("a"), Leadership("b"), Leadership("b")
    here.do(lambda s: a.step(s.connection))
    assert there.do(lambda s: b.step(s.connection)) is False
    here.do(lambda s: a.resign(s.connection))
    assert there.do(lambda s: b.step(s.connection)) is True
    assert there.do(lambda s: again.step(s.connection)) is True, "its folder is locked: whoever had this name is dead"
    with pytest.raises(FencedError):
        there.do(lambda s: b.check(s.connection))


def test_two_replicas_of_one_name_do_not_take_the_lead_from_each_other_for_ever(replicas: tuple[Replica, Replica]) -> None:
    (here, there), (a, b) = replicas, (Leadership("same") for _ in "ab")
    assert here.do(lambda s: a.step(s.connection)) is True
    assert there.do(lambda s: b.step(s.connection)) is True
    for _ in range(3):
        assert here.do(lambda s: a.step(s.connection)) is False
        assert there.do(lambda s: b.step(s.connection)) is False
    assert (a.leads, b.leads, b.term) == (False, True, 2)


def test_a_replica_keeps_its_name_in_its_folder_and_no_other_has_it(tmp_path: Path) -> None:
    folders = [tmp_path / host / "a-path-that-is-long-enough-to-fill-a-column-of-eighty-characters-by-itself" for host in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    one, other = (replica_name(folder, "host") for folder in folders)
    assert one != other
    assert one.startswith("host ")
    assert replica_name(folders[0], "host") == one
    (folders[0] / "replica").write_bytes(b"\0" * 16)
    assert replica_name(folders[0], "h" * 80) not in (one, other)
    assert len(replica_name(folders[0], "h" * 80)) <= 80


def test_of_a_device_that_reports_without_end_the_newest_are_kept_and_all_of_the_others(open_replica: Callable[[], Replica]) -> None:
    replica = open_replica()

    def fill(session: Session) -> None:
        for sequence in range(1, KEPT_OF_A_DEVICE + 51):
            session.add_report(report("flooder", 1 + sequence // 100, sequence, 1e9))
        for sequence in range(1, 4):
            session.add_report(report("other", 1, sequence, 1e9 - (sequence == 1) * KEPT.total_seconds()))

    replica.do(fill)
    replica.do(lambda session: forget_reports(session.connection, now=1e9 + 1))
    table = tables.reports.c
    wanted = select(table.device_id, func.count(), func.min(table.sequence)).group_by(table.device_id).order_by(table.device_id)
    assert replica.do(lambda session: session.connection.execute(wanted).all()) == [("flooder", KEPT_OF_A_DEVICE, 51), ("other", 2, 2)]
