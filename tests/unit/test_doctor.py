"""The doctor's verdicts on made-up machines, and one look at the real one."""

import json
import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.config import load
from pipeline.recipes import recipe_text
from workers.cli import app
from workers.doctor import GIB, Check, Needs, checks, judge, needs_of
from workers.machine import Machine, Package, RayFacts, look_around

HEALTHY = Machine(
    python=(3, 11, 7),
    packages={
        "device": [Package(name="numpy", wanted=">=2,<3", found="2.4.6")],
        "cluster": [Package(name="ray", wanted=">=2.60,<3", found="2.60.0"), Package(name="torch", wanted=">=2.8,<3", found="2.13.0+cpu")],
    },
    import_roots={"pipeline": "/site", "workers": "/site"},
    memory_bytes=8 * GIB,
    shared_memory_bytes=2 * GIB,
    disk_bytes=100 * GIB,
    folder="/runs",
    npm="9.2.0",
    taken_ports={},
    ray=RayFacts(address=None, cpus=2.0),
)
DEVICE = replace(
    HEALTHY,
    packages={**HEALTHY.packages, "cluster": [replace(package, found=None) for package in HEALTHY.packages["cluster"]]},
    npm=None,
    ray=None,
    shared_memory_bytes=None,
    memory_bytes=GIB,
)


SPAM = Needs()


def failing(machine: Machine, needs: Needs = SPAM) -> dict[str, Check]:
    return {check.name: check for check in judge(machine, needs) if not check.ok}


def test_a_healthy_machine_passes_every_check():
    assert failing(HEALTHY) == {}


@pytest.mark.parametrize(
    ("change", "name", "found", "command"),
    [
        ({"python": (3, 10, 2)}, "python", "3.10.2", "make setup PYTHON="),
        ({"memory_bytes": GIB}, "memory", "1.0 GiB", "ps aux"),
        ({"shared_memory_bytes": 64 * 2**20}, "shared memory", "0.1 GiB", "mount"),
        ({"disk_bytes": 0}, "disk", "0.0 GiB free at /runs", "kdpipe clean"),
        ({"npm": None}, "npm", "none on PATH", "apt-get install npm"),
        ({"taken_ports": {7443: "Address already in use"}}, "ports", "7443: Address already in use", "ss -ltnp"),
        ({"ray": RayFacts(address=None, cpus=1.0)}, "ray", "1 CPUs", "students.NAME.cpus"),
        ({"ray": RayFacts(address="ray://x", problem="timed out")}, "ray", "ray://x: timed out", "ray status"),
        ({"import_roots": {"pipeline": "/home/me", "workers": "/site"}}, "import", "pipeline from /home/me", "venv"),
        ({"packages": {}}, "packages device", "not installed", "pip install"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_helps(change: dict[str, object], name: str, found: str, command: str):
    wrong = failing(replace(HEALTHY, **change))  # type: ignore[arg-type]
    assert list(wrong) == [name]
    assert found in wrong[name].found
    assert command in wrong[name].next_command


def test_a_package_outside_its_range_is_named_with_both_versions():
    old = [replace(HEALTHY.packages["cluster"][0], found="2.40.0"), HEALTHY.packages["cluster"][1]]
    wrong = failing(replace(HEALTHY, packages={**HEALTHY.packages, "cluster": old}))
    assert wrong["packages cluster"].found.startswith("ray 2.40.0 (wanted ")
    assert ">=2.60" in wrong["packages cluster"].found


def test_a_local_build_of_a_package_fits_its_range():
    assert Package(name="torch", wanted=">=2.8,<3", found="2.13.0+cpu").fits


def test_a_device_is_not_asked_for_what_only_a_run_needs():
    assert failing(DEVICE) == {}
    assert {"ray", "npm", "shared memory", "packages cluster"}.isdisjoint(check.name for check in judge(DEVICE, Needs()))


def test_bytes_the_machine_does_not_tell_are_said_and_do_not_fail():
    memory = next(check for check in judge(replace(HEALTHY, memory_bytes=None), Needs()) if check.name == "memory")
    assert memory.ok
    assert "does not say" in memory.found


@given(have=st.integers(0, 16 * GIB), want=st.integers(0, 16 * GIB))
def test_memory_passes_exactly_when_there_is_enough(have: int, want: int):
    assert ("memory" not in failing(replace(HEALTHY, memory_bytes=have), Needs(memory_bytes=want))) == (have >= want)


def test_a_run_file_says_what_its_run_needs():
    run = load(
        """
        name = "mine"
        classes = ["a", "b"]
        stream.path = "s.jsonl"
        validation.path = "v.jsonl"
        teacher = {use = "my:teacher", cpus = 2.0, workers_min = 2, workers_max = 2}
        students.small = {cpus = 1.5, workers = 2}
        metrics.port = 9464
        fleet = {fleet_port = 7443, populations = {desk = {student = "small"}}}
        """,
        where="mine.toml",
    )
    needs = needs_of(run)
    assert needs.cpus == 7.0
    assert needs.ports == (7443, 9464)
    assert not needs.npm


def test_a_port_somebody_has_is_found_taken(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port in look_around(folder=tmp_path, ports=(port,), ray_address=None).taken_ports
    assert look_around(folder=tmp_path, ports=(port,), ray_address=None).taken_ports == {}


def test_looking_at_a_folder_that_is_not_there_yet_asks_its_disk_and_makes_nothing(tmp_path: Path):
    machine = look_around(folder=tmp_path / "runs" / "spam", ports=(), ray_address=None)
    assert machine.folder == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_real_machine_can_be_looked_at_and_the_answer_is_json(tmp_path: Path):
    found = checks(folder=tmp_path)
    assert {"python", "packages device", "import", "memory", "disk", "ports"} <= {check.name for check in found}
    assert next(check for check in found if check.name == "python").ok
    assert json.loads(json.dumps([asdict(check) for check in found]))


def test_a_cluster_that_is_gone_is_said_at_once(tmp_path: Path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, not listening
        asked = f"ray://127.0.0.1:{bound.getsockname()[1]}"
        machine = look_around(folder=tmp_path, ports=(), ray_address=asked)
    assert machine.ray is not None
    assert "nobody answers there" in machine.ray.problem


def test_what_listens_and_is_no_cluster_does_not_hold_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.machine.RAY_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        machine = look_around(folder=tmp_path, ports=(), ray_address=f"ray://127.0.0.1:{server.getsockname()[1]}")
    assert machine.ray is not None
    assert "no cluster within" in machine.ray.problem


def test_the_doctor_asked_about_a_run_looks_at_that_runs_needs(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = recipe_text("digits").replace("[fleet]", f"[fleet]\noperator_port = {port}")
        (tmp_path / "run.toml").write_text(text)
        done = CliRunner().invoke(app, ["doctor", str(tmp_path / "run.toml"), "--json"])
    found = {check["name"]: check for check in map(json.loads, done.stdout.splitlines())}
    assert done.exit_code == 10
    assert str(port) in found["ports"]["found"]
    assert "npm" not in found
    assert list(tmp_path.iterdir()) == [tmp_path / "run.toml"]
