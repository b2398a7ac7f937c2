"""The orchestrator's own certificates, on a server that is not started again for years."""

import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kit.orchestrators import RunningOrchestrator
from tests.kit.wire_devices import SimulatedDevice
from workers.orchestrator import pki
from workers.orchestrator.pki import ensure_pki, renew_own, utc

NOW = 1_800_000_000.0


@pytest.fixture(name="hasty")
def _hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningOrchestrator]:
    """Its certificate ends soon from the first moment on, and housekeeping comes often: so it is renewed again and again."""
    monkeypatch.setattr(pki, "SERVER_VALID", pki.RENEW_BEFORE - timedelta(days=1))
    monkeypatch.setattr("workers.orchestrator.turns.HOUSEKEEPING_S", 0.1)
    with RunningOrchestrator(tmp_path) as running:
        yield running


def test_whoever_connects_sees_the_newest_certificate_and_who_is_connected_goes_on(hasty: RunningOrchestrator) -> None:
    (connected,) = hasty.devices(1)
    for port in (hasty.ports.enrolment, hasty.ports.fleet):
        before = ssl.get_server_certificate(("127.0.0.1", port))
        hasty.wait_for(lambda port=port, before=before: ssl.get_server_certificate(("127.0.0.1", port)) != before)  # type: ignore[misc]
    connected.sync()
    fresh = SimulatedDevice(hasty.endpoints)
    fresh.enrol(*hasty.operator.create_tokens("mail"))
    fresh.sync()
    fresh.close()


def test_certificates_are_renewed_when_they_end_soon_and_not_before(tmp_path: Path) -> None:
    own = ensure_pki(tmp_path, host="127.0.0.1", now=utc(NOW))

    def at(days: float) -> tuple[pki.Pki, bytes]:
        renewed = renew_own(tmp_path, own.ca_pem, own.ca, own.ca_key, host="127.0.0.1", names=(), now=utc(NOW + days * 86_400))
        return renewed, (tmp_path / "operator.pem").read_bytes()

    assert at(360.0)[0].server == own.server
    operator = at(360.0)[1]
    assert at(375.0)[0].server != own.server
    assert at(375.0)[1] != operator, "the local operator's, too"
    assert at(380.0) == at(375.0)
