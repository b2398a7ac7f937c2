"""The line to the fleet, over real TLS: opened when it is needed, whatever is wrong with identity, file or clock."""

import json
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.kit.agents import AgentBench
from tests.kit.fleet_server import FakeFleet
from tests.kit.told_teacher import ToldTeacher
from workers.edge.agent import MAX_RENEWAL_BACKOFF_S, RENEWAL_BACKOFF_S, renewal
from workers.edge.connection import Connection
from workers.edge.enrol import IdentityBrokenError, NotEnrolledError, load_identity
from workers.edge.fleet_client import FleetClient, FleetLateError, FleetRefusedError, FleetUnreachableError
from workers.edge.questions import Asked
from workers.rpc import fleet_pb2 as pb

NOW = datetime.now(UTC)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    with FakeFleet(tmp_path, now=NOW) as fleet:
        yield fleet


@pytest.fixture
def identity(fleet: FakeFleet, tmp_path: Path) -> Path:
    """Enrolled as d-1."""
    Connection(tmp_path / "identity", fleet.enrolment_file(tmp_path / "e"), "test").open()
    return tmp_path / "identity"


def test_a_rotten_identity_is_why_a_call_does_not_get_through_and_heals(fleet: FakeFleet, identity: Path) -> None:
    key = (identity / "key.pem").read_bytes()
    (identity / "key.pem").write_bytes(b"rot")
    connection = Connection(identity, None, "test")
    for _ in range(2):
        with pytest.raises(IdentityBrokenError):
            connection.sync(pb.SyncRequest())
    assert not connection.renewal_due(NOW + timedelta(days=400)), "there is nothing to renew"
    (identity / "key.pem").write_bytes(key)
    connection.sync(pb.SyncRequest())
    assert (connection.device, [name for name, _ in fleet.syncs]) == ("d-1", ["d-1"])


def test_a_question_is_answered_refused_or_late_and_none_is_raised(fleet: FakeFleet, identity: Path) -> None:
    connection, question = Connection(identity, None, "test"), pb.AskRequest(text="x")
    (away,) = connection.ask([question], 5.0)
    assert isinstance(away, FleetUnreachableError), "who answers callers opens no line"
    assert fleet.asked == []
    connection.open()
    (refused,) = connection.ask([question], 5.0)
    assert isinstance(refused, FleetRefusedError)
    fleet.teacher, go = ToldTeacher(), threading.Event()
    both = connection.ask([question, pb.AskRequest(numbers=pb.Numbers(values=[1.0]))], 5.0)
    assert [answer.probabilities for answer in both if isinstance(answer, pb.AskResponse)] == [[0.0625, 0.9375]] * 2
    fleet.teacher.on_answer = lambda: go.wait(20)
    (late,) = connection.ask([question], 0.02)
    go.set()
    assert isinstance(late, FleetLateError)
    connection.close()
    (closed,) = connection.ask([question], 5.0)
    assert isinstance(closed, FleetUnreachableError)


def test_a_question_under_way_ends_with_the_line(fleet: FakeFleet, identity: Path) -> None:
    asked, go, heard = threading.Event(), threading.Event(), queue.SimpleQueue[Asked]()
    fleet.teacher = teacher = ToldTeacher()

    def wait() -> None:
        asked.set()
        go.wait(20)

    teacher.on_answer = wait
    connection = Connection(identity, None, "test")
    connection.open()
    thread = threading.Thread(target=lambda: heard.put(connection.ask([pb.AskRequest(text="x")], 60.0)[0]))
    thread.start()
    assert asked.wait(20)
    connection.close()
    assert isinstance(heard.get(timeout=20), FleetUnreachableError)
    go.set()
    thread.join()


def test_questions_go_on_while_the_certificate_is_renewed_again_and_again(fleet: FakeFleet, identity: Path) -> None:
    """One thread renews, others ask: each question has an answer, or ends as one of a line that was replaced; none hangs or raises."""
    fleet.teacher = ToldTeacher()
    connection, stop = Connection(identity, None, "test"), threading.Event()
    connection.open()
    counts: Counter[type] = Counter()

    def ask() -> None:
        while not stop.is_set():
            counts.update(type(one) for one in connection.ask([pb.AskRequest(text="x")] * 2, 10.0))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        connection.renew()
    (after,) = connection.ask([pb.AskRequest(text="x")], 10.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert isinstance(after, pb.AskResponse)
    assert counts[pb.AskResponse] > 0
    assert counts.keys() <= {pb.AskResponse, FleetUnreachableError}
    connection.close()


def test_a_line_that_is_opened_after_the_end_is_closed(fleet: FakeFleet, identity: Path) -> None:
    connection = Connection(identity, None, "test")
    connection.close()
    connection.open()
    with pytest.raises(FleetUnreachableError, match="closed"):
        connection.sync(pb.SyncRequest())


def test_a_device_without_an_identity_says_so_at_each_call(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolledError):
        Connection(tmp_path / "identity", None, "test").sync(pb.SyncRequest())


def test_a_new_enrolment_file_that_cannot_be_used_yet_waits_beside_the_old_identity(fleet: FakeFleet, identity: Path) -> None:
    file = fleet.enrolment_file(identity.with_name("f"), token="token-2")
    fleet.lose_enrol_answers = 1
    connection = Connection(identity, file, "test")
    connection.sync(pb.SyncRequest())
    assert connection.device == "d-1"
    assert connection.renewal_due(NOW)
    connection.renew()
    connection.sync(pb.SyncRequest())
    assert [name for name, _ in fleet.syncs] == ["d-1", "d-2"]
    assert not connection.renewal_due(NOW)


@pytest.mark.parametrize(("years", "says"), [(-10, "has expired"), (10, "not yet valid")], ids=["ten years ahead", "ten years behind"])
def test_a_clock_that_is_wrong_by_years_is_told_as_that_over_real_tls(
    fleet: FakeFleet, identity: Path, tmp_path: Path, years: int, says: str
) -> None:
    """The clock cannot be set here, so the orchestrator's certificate is made at another time: TLS sees only the difference."""
    mine = load_identity(identity)
    bench = AgentBench(tmp_path / "device", fleet.trust)
    with FakeFleet(tmp_path / "off", now=NOW, server_clock=timedelta(days=365 * years)) as off:
        seen = json.loads(off.enrolment_file(tmp_path / "seen").read_text())
        client = FleetClient(seen["endpoint_fleet"], ca_pem=seen["ca_pem"], key_pem=mine.key_pem, certificate_pem=mine.certificate_pem)
        bench.sync = client.sync  # type: ignore[method-assign]
        bench.agent.turn()
        client.close()
    assert bench.agent.status.clock_wrong
    assert says in bench.agent.status.blocked
    assert "set the clock" in bench.agent.status.blocked
    del bench.sync
    bench.agent.turn()
    assert not bench.agent.status.clock_wrong, "it heals by itself"


def test_a_renewal_that_does_not_help_is_not_asked_for_each_turn() -> None:
    """By a clock far ahead a certificate that was renewed is due again at once."""
    now, asked, due = [0.0], [0], [True]

    def renew() -> None:
        asked[0] += 1
        if asked[0] == 2:
            raise FleetUnreachableError("Renew", "down")

    step = renewal(lambda: due[0], renew, clock=lambda: now[0])
    for second in range(24 * 3600):
        now[0] = second
        step()
    assert 24 <= asked[0] <= 24 * 3600 / MAX_RENEWAL_BACKOFF_S + MAX_RENEWAL_BACKOFF_S / RENEWAL_BACKOFF_S
    due[0] = False
    step()
    due[0] = True
    before = asked[0]
    step()
    assert asked[0] == before + 1, "the next one that is due is asked for at once"
