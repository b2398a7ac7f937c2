"""A rollout's log that somebody edited: devices are served as before, nobody leads it, and every place says so."""

import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import update

from tests.kit.orchestrators import RunningOrchestrator
from workers.orchestrator import tables
from workers.orchestrator.client import OrchestratorRefusedError
from workers.orchestrator.listening import ROLLOUTS
from workers.orchestrator.pki import operator_credentials


def health(running: RunningOrchestrator, service: str) -> str:
    ca_pem, pair = operator_credentials(running.folder / "fleet" / "pki")
    credentials = grpc.ssl_channel_credentials(ca_pem, pair.key_pem, pair.certificate_pem)
    with grpc.secure_channel(f"127.0.0.1:{running.ports.operator}", credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_an_edited_log_stops_its_rollout_and_no_device(
    orchestrator: RunningOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (device,) = orchestrator.devices(1)
    release = orchestrator.release()
    orchestrator.roll_out(release, soak_s=60.0)
    orchestrator.offered(device, digest=release.digest)
    assert health(orchestrator, ROLLOUTS) == "SERVING"
    orchestrator.stop()
    database = tables.open_database(tables.database_url(tmp_path / "fleet"))
    with database.begin() as connection:
        events = tables.rollout_events
        connection.execute(update(events).where(events.c.sequence == 2).values(facts='{"reason":"approved by nobody"}'))
    database.dispose()
    orchestrator.start()

    assert device.confirm().acknowledged_sequence == 2, "devices are served"
    assert device.assignment
    fleet = orchestrator.operator.get_fleet()
    assert (fleet.rollouts, [(log.rollout_id, log.population) for log in fleet.broken]) == ([], [("r1", "mail")])
    orchestrator.wait_for(lambda: health(orchestrator, ROLLOUTS) == "NOT_SERVING")
    assert health(orchestrator, "") == "SERVING"
    with pytest.raises(OrchestratorRefusedError, match="event 2 has hash"):
        orchestrator.operator.approve("r1")
    assert len(orchestrator.operator.events("r1")) >= 4, "an audit sees it as it is"

    said = orchestrator.operator_file(tmp_path / "operator.json")
    from workers.commands.rollout.ls import ls

    ls(said)
    assert "r1: nobody leads it. rollout r1: event 2 has hash" in capsys.readouterr().out
    ls(said, as_json=True)
    assert json.loads(capsys.readouterr().out)["state"] == "broken"
