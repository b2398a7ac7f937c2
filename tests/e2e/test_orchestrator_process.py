"""`python -m workers.orchestrator` as a process: its contract with the driver, and kills at random moments."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.orchestrator_process import OrchestratorProcess
from tests.kit.wire_devices import Endpoints, enrolled
from workers.orchestrator.client import Operator, enrolment_files

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
        enrolment_files(operator, [tmp_path / "device-1.json"], host="127.0.0.1", population="mail", root=process.trust.root())
    content = json.loads((tmp_path / "device-1.json").read_text())
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
