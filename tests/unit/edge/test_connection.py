"""The line to the fleet, over real TLS: opened when it is needed, whatever is wrong with identity, file or clock."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.kit.agents import AgentBench
from tests.kit.fleet_server import FakeFleet
from workers.edge.agent import MAX_RENEWAL_BACKOFF_S, RENEWAL_BACKOFF_S, renewal
from workers.edge.connection import Connection
from workers.edge.enrol import IdentityBrokenError, NotEnrolledError, load_identity
from workers.edge.fleet_client import FleetClient, FleetUnreachableError
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
