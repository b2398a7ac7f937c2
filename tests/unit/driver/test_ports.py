"""A port of the fleet that somebody else has is found before the run starts, not after an hour of training."""

import os
import socket
from pathlib import Path

import psutil
import pytest

from pipeline.config import FleetSection, PopulationSection
from workers.driver.folder import RunFolder, write_json
from workers.driver.ports import NAMES, check_ports
from workers.orchestrator.ports import PortTakenError


def asking(name: str, port: int) -> FleetSection:
    return FleetSection(populations={"phones": PopulationSection(student="tiny")}, **{f"{name}_port": port})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_taken_port_is_named(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"{name} port 127.0.0.1:{port} is taken"):
            check_ports(asking(name, port), RunFolder(tmp_path))
    check_ports(asking(name, port), RunFolder(tmp_path))


def test_a_port_that_this_runs_own_orchestrator_holds_is_not_taken(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as kept:
        port = kept.getsockname()[1]
        record = {"part": "orchestrator", "pid": os.getpid(), "started_unix_s": psutil.Process().create_time(), "command": [], "kept": True}
        write_json(folder.children_file, [{**record, "ready": {"ready": True, "fleet_port": port}}])
        check_ports(asking("fleet", port), folder)
        write_json(folder.children_file, [{**record, "started_unix_s": 1.0, "ready": {"ready": True, "fleet_port": port}}])
        with pytest.raises(PortTakenError):
            check_ports(asking("fleet", port), folder)
