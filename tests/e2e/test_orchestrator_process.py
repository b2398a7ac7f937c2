"""`python -m workers.orchestrator` as a process: its contract with the driver, and kills at random moments."""

import json
import random
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pipeline.errors import FleetError
from pipeline.rollout.rollout import RolloutState
from tests.kit.bundles import target_of, text_bundle
from tests.kit.orchestrator_process import OrchestratorProcess
from tests.kit.wire_devices import Endpoints, SimulatedDevice, enrolled
from workers.orchestrator.client import Operator, enrolment_files
from workers.orchestrator.pki import utc

READY_S = 60.0


@pytest.fixture(name="process")
def _process(tmp_path: Path) -> Iterator[OrchestratorProcess]:
    with OrchestratorProcess(tmp_path) as process:
        yield process


def test_it_says_when_it_is_ready_serves_and_stops_promptly_when_told(process: OrchestratorProcess) -> None:
    process.start()
    assert process.ready["ready"] is True
    assert all(process.ready[f"{name}_port"] > 0 for name in ("fleet", "enrolment", "operator", "metrics"))
    with Operator.open(process.fleet_dir) as operator:
        operator.wait_ready()
        assert list(operator.get_fleet().devices) == []
    began_s = time.monotonic()
    assert process.end(signal.SIGTERM) == 0
    assert time.monotonic() - began_s < 10


def test_it_ends_with_its_parent(process: OrchestratorProcess) -> None:
    process.start("--exit-with-parent")
    assert process.child is not None
    assert process.child.stdin is not None
    process.child.stdin.close()
    assert process.child.wait(timeout=30) == 0


def test_a_taken_port_is_one_line_and_exit_code_10(process: OrchestratorProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        out, err = process.spawn("--fleet-port", str(port)).communicate(timeout=READY_S)
    assert process.child is not None
    assert process.child.returncode == 10
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert [f"127.0.0.1:{port} is taken" in line for line in lines] == [True], lines
    process.child = None


def test_a_second_one_on_the_same_folder_is_exit_code_11(process: OrchestratorProcess) -> None:
    process.start()
    first = process.child
    _, err = process.spawn().communicate(timeout=READY_S)
    assert process.child is not None
    assert process.child.returncode == 11
    assert str(process.ready["pid"]) in err
    process.child = first


def test_enrolment_files_are_all_that_a_device_needs(process: OrchestratorProcess, tmp_path: Path) -> None:
    process.start()
    with Operator.open(process.fleet_dir) as operator:
        paths = enrolment_files(
            operator,
            tmp_path,
            fleet_dir=process.fleet_dir,
            host="127.0.0.1",
            population="mail",
            names=["device-1"],
            root=process.trust.root(),
        )
    content = json.loads(paths[0].read_text())
    assert set(content) == {"version", "endpoint_enrolment", "endpoint_fleet", "ca_pem", "root", "token"}
    host, port = content["endpoint_enrolment"].split(":")
    endpoints = Endpoints(
        host=host,
        enrolment=int(port),
        fleet=int(content["endpoint_fleet"].split(":")[1]),
        operator=0,
        ca_pem=content["ca_pem"].encode(),
    )
    (device,) = enrolled(endpoints, [content["token"]])
    device.sync()
    device.close()


def test_killed_again_and_again_it_loses_nothing_and_does_nothing_twice(process: OrchestratorProcess) -> None:
    """Devices go through a whole rollout while the server is killed, each time soon after one of them got somewhere.

    What was acknowledged stays, each report and each event is there once, and nobody is assigned anything twice.
    """
    process.start()
    endpoints = process.endpoints()
    operator = Operator.open(process.fleet_dir)
    devices = enrolled(endpoints, operator.create_tokens("mail", count=6))
    bundle = text_bundle(process.folder / "made")
    release = target_of(bundle)
    operator.publish(process.trust.signer().add(release, now=utc(time.time())), bundle.path)
    for device in devices:
        device.sync()
    operator.create_rollout("r1", population="mail", target=release.path, waves=(0.2, 0.5, 1.0), soak_s=0.1, deadline_s=300.0)
    operator.approve("r1")
    targets = (process.trust.repository / "metadata" / "1.targets.json").read_bytes()
    acknowledged = {device.device_id: 0 for device in devices}
    chooser, moves, kills, end_s = random.Random(5), 0, 0, time.monotonic() + 100
    # Of at least 11 moves: six devices accept, and all but the last one hear of their reports before the rollout is over.
    kill_after = set(chooser.sample(range(1, 11), 6))
    while operator_state(operator) is not RolloutState.COMPLETED:
        assert time.monotonic() < end_s, "the rollout did not end in time"
        for device in devices:
            moves += step(device, targets, acknowledged)
            if moves in kill_after:
                kill_after.remove(moves)
                time.sleep(chooser.uniform(0.0, 0.1))  # whatever the server makes of that move may be under way
                process.end(signal.SIGKILL)
                process.start()
                assert process.endpoints() == endpoints, "the ports stay, so devices find it again"
                kills += 1
    assert kills == 6
    seen = operator.get_rollout("r1")
    assert (seen.confirmed, seen.failed, seen.lost) == (6, 0, 0)
    operator.close()
    process.end(signal.SIGTERM)
    check_database(process.fleet_dir / "orchestrator.db", devices)


def step(device: SimulatedDevice, targets: bytes, acknowledged: dict[str, int]) -> bool:
    """One call of an honest device that keeps reports until they are acknowledged. True: it got somewhere."""
    queued: list[Any] = device.__dict__.setdefault("queue", [])
    try:
        answer = device.sync(*queued)
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise
        device.close()
        return False
    assert answer.acknowledged_sequence >= acknowledged[device.device_id], "what was acknowledged once stays acknowledged"
    moved = bool(answer.acknowledged_sequence > acknowledged[device.device_id])
    acknowledged[device.device_id] = answer.acknowledged_sequence
    queued[:] = [report for report in queued if report.sequence > answer.acknowledged_sequence]
    if answer.assignment:
        before = device.generation
        device.accept(targets, now_s=time.time())
        if device.generation > before:
            device.running_digest = device.assigned_digest
            queued += [device.report(state) for state in ("CHECK", "DOWNLOAD", "VERIFY", "STAGED", "TRIAL", "CONFIRMED")]
            moved = True
    return moved


def operator_state(operator: Operator) -> RolloutState | None:
    try:
        return operator.get_rollout("r1").state
    except FleetError:
        return None


def check_database(path: Path, devices: list[SimulatedDevice]) -> None:
    with sqlite3.connect(path) as database:
        kinds = [kind for (kind,) in database.execute("SELECT kind FROM rollout_events ORDER BY sequence")]
        reports = database.execute("SELECT device_id, count(*), max(sequence) FROM reports GROUP BY device_id").fetchall()
        generations = [generation for (generation,) in database.execute("SELECT generation FROM devices")]
        events = [json.loads(facts) for (facts,) in database.execute("SELECT facts FROM rollout_events WHERE kind = 'outcomes'")]
    assert kinds.count("wave_started") == 3
    assert kinds.count("completed") == 1
    assert sorted(reports) == sorted((device.device_id, 6, 6) for device in devices), "each report is kept exactly once"
    assert generations == [1] * len(devices), "nobody was assigned anything twice"
    outcomes = [device for facts in events for device, _, _ in facts["outcomes"]]
    assert sorted(outcomes) == sorted(device.device_id for device in devices)
    for device in devices:
        device.close()
