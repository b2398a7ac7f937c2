"""The orchestrator's life: ports, locks, broken state, the database's failures, and what it shows to Prometheus."""

import asyncio
import json
import socket
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from sqlalchemy import event

from pipeline.errors import FolderBusyError, ReleaseError
from pipeline.releases.repository import TIMESTAMP_VALID
from pipeline.rollout.rollout import RolloutState
from tests.kit.orchestrators import RunningOrchestrator
from workers.metrics import MetricsPortError
from workers.orchestrator.pki import utc
from workers.orchestrator.ports import PICKED, Ports, PortsFileError, PortTakenError, settled
from workers.orchestrator.server import Orchestrator, Settings


@pytest.fixture(name="orchestrator")
def _orchestrator(tmp_path: Path) -> Iterator[RunningOrchestrator]:
    with RunningOrchestrator(tmp_path) as running:
        yield running


def settings(orchestrator: RunningOrchestrator, **changes: object) -> Settings:
    values = {
        "folder": orchestrator.folder / "other",
        "repository": orchestrator.trust.repository,
        "keys": orchestrator.trust.keys / "online",
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(name="shared", scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrchestrator]:
    """One orchestrator that others get in the way of."""
    with RunningOrchestrator(tmp_path_factory.mktemp("shared")) as running:
        yield running


def start_and_stop(wanted: Settings) -> Ports:
    async def run() -> Ports:
        orchestrator = Orchestrator(wanted)
        ports = await orchestrator.start()
        await orchestrator.stop()
        return ports

    return asyncio.run(run())


def scrape(orchestrator: RunningOrchestrator) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{orchestrator.ports.metrics}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_ports_are_kept_over_a_restart_so_that_devices_find_it_again(orchestrator: RunningOrchestrator) -> None:
    before = orchestrator.ports
    orchestrator.restart()
    assert orchestrator.ports == before
    assert json.loads((orchestrator.folder / "fleet" / "ports.json").read_text()) == {"version": 1, **vars(before)}


@pytest.mark.parametrize("what", ["fleet", "enrolment", "operator"])
def test_a_taken_port_is_named(shared: RunningOrchestrator, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"{what} port 127.0.0.1:{port} is taken") as error:
            start_and_stop(settings(shared, ports=Ports(**{what: port})))
    assert error.value.exit_code == 10


def test_two_orchestrators_never_share_a_port_in_silence(shared: RunningOrchestrator) -> None:
    with pytest.raises(PortTakenError):
        start_and_stop(settings(shared, ports=Ports(fleet=shared.ports.fleet)))


def test_a_taken_metrics_port_is_named(shared: RunningOrchestrator) -> None:
    with pytest.raises(MetricsPortError):
        start_and_stop(settings(shared, ports=Ports(metrics=shared.ports.metrics)))


def test_a_second_orchestrator_on_the_same_folder_is_refused_with_the_holder(shared: RunningOrchestrator) -> None:
    with pytest.raises(FolderBusyError, match="`kill "):
        start_and_stop(settings(shared, folder=shared.folder / "fleet"))


def test_a_failed_start_leaves_nothing_behind_that_hinders_the_next(shared: RunningOrchestrator) -> None:
    with pytest.raises(PortTakenError):
        start_and_stop(settings(shared, ports=Ports(operator=shared.ports.operator)))
    assert start_and_stop(settings(shared)).fleet > 0


def test_a_ports_file_that_does_not_read_is_an_error(shared: RunningOrchestrator) -> None:
    folder = shared.folder / "broken"
    folder.mkdir()
    for content in (b"{", b'{"version": 2}', b"[]", b'{"version": 1, "unknown": 3}'):
        (folder / "ports.json").write_bytes(content)
        with pytest.raises(PortsFileError, match=r"ports\.json"):
            start_and_stop(settings(shared, folder=folder))


def test_without_a_repository_it_does_not_start(shared: RunningOrchestrator, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError):
        start_and_stop(settings(shared, repository=tmp_path / "nothing"))


def test_the_timestamp_is_signed_again_before_it_ends(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    before = device.metadata("timestamp.json")
    orchestrator.clock.ahead_s = TIMESTAMP_VALID.total_seconds() * 0.6
    orchestrator.restart()
    orchestrator.wait_for(lambda: device.metadata("timestamp.json") != before)


def test_metadata_that_only_a_person_renews_is_told_of_a_month_before_it_ends(
    shared: RunningOrchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    turns, ends = shared.orchestrator._turns, 'kdpipe_orchestrator_metadata_expires_unix_seconds{role="root"}'
    assert turns is not None
    expiries = dict(turns.repository.expiries)
    shared.wait_for(lambda: scrape(shared).get(ends) == expiries["root"].timestamp())
    caplog.clear()
    turns._tell_ends(expiries)
    assert not caplog.records
    turns._tell_ends({**expiries, "root": utc(shared.clock()) + timedelta(days=29, hours=1)})
    assert [(record.levelname, vars(record)["role"], vars(record)["days"]) for record in caplog.records] == [("WARNING", "root", 29)]


def test_metrics_count_from_zero_and_name_no_device(orchestrator: RunningOrchestrator) -> None:
    fresh = scrape(orchestrator)
    assert fresh['kdpipe_orchestrator_reports_total{state="confirmed"}'] == 0
    assert fresh['kdpipe_orchestrator_calls_total{code="PERMISSION_DENIED",port="operator"}'] == 0
    (device,) = orchestrator.devices(1)
    release = orchestrator.release()
    orchestrator.roll_out(release)
    orchestrator.offered(device, digest=release.digest)
    device.confirm()
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").has_ended)
    orchestrator.wait_for(lambda: scrape(orchestrator)['kdpipe_orchestrator_rollouts{state="completed"}'] == 1)
    seen = scrape(orchestrator)
    assert seen['kdpipe_orchestrator_reports_total{state="confirmed"}'] == 1
    assert seen['kdpipe_orchestrator_devices{state="confirmed"}'] == 1
    assert seen["kdpipe_orchestrator_enrolments_total"] == 1
    assert not any(device.device_id in series for series in seen)
    ours = [series for series in seen if not series.startswith("process_")]
    assert all(series.startswith("kdpipe_orchestrator_") for series in ours)


def test_a_machine_that_slept_misses_no_deadline_and_loses_no_device(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    release = orchestrator.release()
    orchestrator.roll_out(release)
    orchestrator.offered(device, digest=release.digest)
    device.running_digest = release.digest
    device.sync(device.report("TRIAL"))
    orchestrator.clock.ahead_s = 8 * 3600.0
    orchestrator.wait_for(lambda: orchestrator.orchestrator.roster.rollouts["r1"].stopped_s > 7 * 3600)
    assert orchestrator.operator.get_rollout("r1").state is RolloutState.RUNNING
    device.sync(device.report("CONFIRMED"))
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").has_ended)
    assert orchestrator.operator.get_rollout("r1").state is RolloutState.COMPLETED


def test_a_full_disk_refuses_reports_and_the_engine_goes_on_when_there_is_room_again(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    release = orchestrator.release()
    orchestrator.roll_out(release)
    orchestrator.offered(device, digest=release.digest)
    database = orchestrator.orchestrator._database
    assert database is not None

    def full(connection: object) -> None:
        raise OSError("disk full")

    event.listen(database, "commit", full)
    with pytest.raises(grpc.RpcError) as error:
        device.confirm()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    event.remove(database, "commit", full)
    device.sync(device.report("CONFIRMED"))
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").has_ended)
    assert orchestrator.operator.get_rollout("r1").confirmed == 1


def test_ports_that_are_kept_are_none_that_a_system_gives_to_connections_and_asked_ones_stay() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        asked = taken.getsockname()[1]
        found = settled(Ports(fleet=asked), "127.0.0.1")
    assert found.fleet == asked
    assert {found.enrolment, found.operator, found.metrics} <= set(PICKED)


def test_a_part_that_ends_by_a_fault_is_heard_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise ValueError("a fault of ours")

    async def scenario() -> None:
        orchestrator = Orchestrator(Settings(folder=Path(), repository=Path(), keys=Path()))
        orchestrator._begin(broken(), "answering")
        await asyncio.gather(*orchestrator._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    (record,) = [record for record in caplog.records if record.getMessage() == "a part of the orchestrator ended"]
    assert (record.levelname, vars(record)["part"]) == ("ERROR", "answering")
