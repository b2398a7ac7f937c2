"""What systemd is told, and the unit that starts the agent."""

import configparser
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workers.edge.cli import app
from workers.edge.supervisor import Pulse, Supervisor

UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "kdpipe-edge.service"


def unit() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(UNIT)
    return parsed


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_ready_alive_and_stopping(tmp_path: Path, abstract: bool) -> None:
    name = f"@{tmp_path.name}-{tmp_path.stat().st_ino}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        supervisor = Supervisor({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000"})
        supervisor.ready()
        supervisor.alive()
        supervisor.stopping()
        assert [systemd.recv(64) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
    assert supervisor.watchdog_s == 60.0
    supervisor.alive()  # a systemd that is gone is nobody's trouble


def test_without_a_supervisor_nothing_is_told() -> None:
    supervisor = Supervisor({"WATCHDOG_USEC": "5"})
    supervisor.ready()
    assert supervisor.watchdog_s is None


def test_the_watchdog_hears_nothing_of_a_loop_that_does_not_move() -> None:
    now = [0.0]
    pulse = Pulse(600.0, clock=lambda: now[0])
    pulse.beat(rest_s=86_400.0)  # a turn ended; it rests for as long as the server says
    now[0] = 86_999.0
    assert pulse.beats
    now[0] = 87_000.0
    assert not pulse.beats
    pulse.beat()
    assert pulse.beats


def test_only_a_loop_that_moves_is_said_to_live(tmp_path: Path) -> None:
    class Turns(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            asked.append(timeout)
            now[0] += 20.0
            return len(asked) > 4

    asked: list[float | None] = []
    now = [0.0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
        supervisor.watch(Pulse(45.0, clock=lambda: now[0]), Turns())
        supervisor.stopping()
        assert [systemd.recv(64) for _ in range(3)] == [b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]
    assert set(asked) == {20.0}


def test_the_unit_restarts_for_ever_keeps_state_and_is_nobody_in_particular() -> None:
    parsed = unit()
    service = parsed["Service"]
    assert (service["Restart"], service["Type"], parsed["Unit"]["StartLimitIntervalSec"]) == ("always", "notify", "0")
    assert service["User"] not in ("", "root")
    assert f"/var/lib/{service['StateDirectory']}" in service["ExecStart"]
    for hardening in ("NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectKernelModules", "RestrictSUIDSGID", "LockPersonality"):
        assert service[hardening] == "yes", hardening
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"]) == ("strict", "")


def test_the_unit_starts_what_the_program_takes() -> None:
    program, *arguments = unit()["Service"]["ExecStart"].split()
    assert Path(program).name == "kdpipe"
    assert arguments[:2] == ["edge", "run"]
    assert CliRunner().invoke(app, [*arguments[1:], "--help"]).exit_code == 0


def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/kdpipe/bin/kdpipe", "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    looked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy)], capture_output=True, text=True, timeout=60
    )
    assert looked.returncode == 0, looked.stdout[-500:]
