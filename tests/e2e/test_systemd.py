"""The agent under a real systemd, by the unit that ships."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit.bundles import text_bundle
from tests.kit.fleet_server import FakeFleet
from tests.kit.runs import Patience
from tests.kit.systemd import Systemd
from workers.edge.local_client import LocalDevice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "kdpipe-edge.service"
NAME = "kdpipe-edge"


def test_a_killed_agent_is_started_again_and_answers_and_a_stopped_one_stays_stopped(tmp_path: Path) -> None:
    with FakeFleet(tmp_path, now=datetime.now(UTC)) as fleet, Systemd(tmp_path / "machine", UNIT, user=NAME) as systemd:
        (systemd.etc / NAME).mkdir()
        fleet.enrolment_file(systemd.etc / NAME / "enrolment.json")
        systemd.own(systemd.etc / NAME / "enrolment.json")
        release = fleet.trust.publish(text_bundle(tmp_path, release=1), release=1, now=fleet.now)
        fleet.assign("d-1", release, generation=1)
        started = systemd.systemctl("start", NAME)
        assert started.returncode == 0, started.stderr + systemd.log
        assert systemd.show(NAME, "ActiveState") == "active"
        fleet.wait_for(lambda: fleet.states("d-1")[-1:] == ["CONFIRMED"], timeout_s=240)
        first = systemd.show(NAME, "MainPID")
        device = systemd.state / NAME
        assert answered_by(device) == release.digest

        systemd.kill(NAME)
        syncs, patience = len(fleet.syncs), Patience(lambda: systemd.show(NAME, "SubState"))
        while systemd.show(NAME, "NRestarts") != "1" or systemd.show(NAME, "SubState") != "running":
            assert not patience.is_over, systemd.log
        assert systemd.show(NAME, "MainPID") not in (first, "0")
        assert answered_by(device) == release.digest
        fleet.wait_for(lambda: len(fleet.syncs) > syncs, timeout_s=60)
        assert list(fleet.enrolled.values()) == ["d-1"], "it is the same device"

        assert systemd.systemctl("stop", NAME).returncode == 0
        assert [systemd.show(NAME, fact) for fact in ("ActiveState", "Result", "MainPID")] == ["inactive", "success", "0"]


def answered_by(folder: Path) -> str:
    with LocalDevice(folder) as device:
        digest: str = device.predict(["hello"])["digest"]
    return digest
