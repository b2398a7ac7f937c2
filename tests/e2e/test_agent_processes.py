"""Real agent processes against a fleet over real mTLS: first install, update, way back, kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.releases.bundle import BundleFile
from pipeline.rollout.device import TRIES
from pipeline.rollout.rollout import RolloutState
from tests.kit.agent_process import AgentProcess
from tests.kit.agents import AgentBench
from tests.kit.bundles import TEXTS, Trust, moved_table, target_of, text_bundle, text_probabilities, text_table, wrong_golden
from tests.kit.fleet_server import FakeFleet
from workers.edge.connection import Connection
from workers.edge.local_client import DeviceRefusedError, DeviceSilentError, LocalDevice
from workers.orchestrator.client import Operator, enrolment_files
from workers.orchestrator.views import RolloutView
from workers.rpc import fleet_pb2 as pb

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    with FakeFleet(tmp_path, now=datetime.now(UTC)) as fleet:
        yield fleet


def test_device_enrols_installs_updates_and_answers_like_the_bundle(fleet: FakeFleet, tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "device", fleet.enrolment_file(tmp_path / "enrolment.json"))
    try:
        assert agent.ready["ready"]
        assert agent.ready["device"] == "d-1"
        with LocalDevice(agent.folder) as device:
            with pytest.raises(DeviceRefusedError, match="no model answers") as refused:
                device.predict(["hello"])
            assert refused.value.code == "FAILED_PRECONDITION"
            first = fleet.trust.publish(text_bundle(tmp_path, release=1, seed=1), release=1, now=fleet.now)
            fleet.assign("d-1", first, generation=1)
            fleet.wait_for(lambda: fleet.states("d-1", 1)[-1:] == ["CONFIRMED"])
            assert fleet.states("d-1", 1) == ["CHECK", "DOWNLOAD", "VERIFY", "STAGED", "TRIAL", "CONFIRMED"]
            assert "shadow skipped" in fleet.reports["d-1"][4].detail
            answer = device.predict(TEXTS)
            assert answer["digest"] == first.digest
            for text, row in zip(TEXTS, answer["probabilities"], strict=True):
                assert row == pytest.approx(text_probabilities(text, text_table(1)), abs=1e-5)

            second = fleet.trust.publish(text_bundle(tmp_path, release=2, seed=2), release=2, now=fleet.now)
            fleet.assign("d-1", second, generation=2)
            fleet.wait_for(lambda: fleet.states("d-1", 2)[-1:] == ["CONFIRMED"])
            assert fleet.states("d-1", 2) == ["CHECK", "DOWNLOAD", "VERIFY", "STAGED", "SHADOW", "TRIAL", "CONFIRMED"]
            evidence = next(r.shadow for r in fleet.reports["d-1"] if r.generation == 2 and r.HasField("shadow"))
            assert evidence.samples == 2 * len(TEXTS)
            assert not evidence.golden_only
            assert evidence.memory_bytes > 0
            assert device.predict(["x"])["digest"] == second.digest
            assert device.status()["state"] == "CONFIRMED"
        url = f"http://127.0.0.1:{agent.ready['metrics_port']}/metrics"
        series = urllib.request.urlopen(url, timeout=5).read().decode()
        assert 'kdpipe_edge_installs_total{state="CONFIRMED"} 2.0' in series
        assert 'kdpipe_edge_predictions_total{outcome="busy"} 0.0' in series
        assert "d-1" not in series
        agent.process.terminate()
        assert agent.wait() == 0
    finally:
        agent.process.kill()


def test_an_update_comes_by_delta_and_the_wire_carries_no_more_than_that(fleet: FakeFleet, tmp_path: Path) -> None:
    bundles = [text_bundle(tmp_path, release=1), text_bundle(tmp_path, release=2, table=moved_table())]
    bundles.append(text_bundle(tmp_path, release=3, table=moved_table(rows=6)))
    agent = AgentProcess(tmp_path / "device", fleet.enrolment_file(tmp_path / "enrolment.json"))
    try:
        first = fleet.trust.publish(bundles[0], release=1, now=fleet.now)
        fleet.assign("d-1", first, generation=1)
        fleet.wait_for(lambda: fleet.states("d-1", 1)[-1:] == ["CONFIRMED"])
        second = fleet.trust.publish(bundles[1], release=2, deltas_from=bundles[:1], now=fleet.now)
        fleet.assign("d-1", second, generation=2)
        fleet.wait_for(lambda: fleet.states("d-1", 2)[-1:] == ["CONFIRMED"])
        weights = agent.folder / "slots" / second.digest / "weights.bin"
        weights.write_bytes(b"rot!" + weights.read_bytes()[4:])
        third = fleet.trust.publish(bundles[2], release=3, deltas_from=bundles[1:2], now=fleet.now)
        (fleet.trust.repository / "bundles" / third.deltas[0].digest).unlink()  # the packed bundle: nothing but the whole is left
        fleet.assign("d-1", third, generation=3)
        fleet.wait_for(lambda: fleet.states("d-1", 3)[-1:] == ["CONFIRMED"])
        with LocalDevice(agent.folder) as device:
            assert device.predict(["x"])["digest"] == third.digest
        delta = next(delta for delta in second.deltas if delta.source == first.digest)
        assert [digest for digest, _ in fleet.fetched] == [first.digest, delta.digest, third.deltas[0].digest, third.digest]
        said = [report.detail for report in fleet.reports["d-1"] if pb.DeviceState.Name(report.state) == "DEVICE_STATE_VERIFY"]
        assert said[1].startswith(f"delta from {first.digest[:12]}, {delta.length} bytes")
        assert "weights.bin changed" in said[2]
        series = urllib.request.urlopen(f"http://127.0.0.1:{agent.ready['metrics_port']}/metrics", timeout=5).read().decode()
        assert f"kdpipe_edge_downloaded_bytes_total {float(first.length + delta.length + third.length)}" in series
        assert 'kdpipe_edge_fetched_bundles_total{way="delta"} 1.0' in series
        assert 'kdpipe_edge_fetched_bundles_total{way="whole"} 2.0' in series
        assert "kdpipe_edge_deltas_refused_total 2.0" in series
    finally:
        agent.process.kill()


def test_release_that_misses_its_golden_samples_never_answers(fleet: FakeFleet, tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "device", fleet.enrolment_file(tmp_path / "enrolment.json"))
    try:
        good = fleet.trust.publish(text_bundle(tmp_path, release=1), release=1, now=fleet.now)
        fleet.assign("d-1", good, generation=1)
        fleet.wait_for(lambda: fleet.states("d-1", 1)[-1:] == ["CONFIRMED"])
        bad = fleet.trust.publish(text_bundle(tmp_path, release=2, seed=2, golden=wrong_golden(2)), release=2, now=fleet.now)
        fleet.assign("d-1", bad, generation=2)
        fleet.wait_for(lambda: fleet.states("d-1", 2)[-1:] == ["FAILED"])
        assert fleet.last("d-1").failure_code == "golden_mismatch"
        with LocalDevice(agent.folder) as device:
            assert device.predict(["x"])["digest"] == good.digest
    finally:
        agent.kill()


def test_an_agent_whose_identity_and_record_rotted_starts_answers_and_says_why(fleet: FakeFleet, tmp_path: Path) -> None:
    enrolment, target = (
        fleet.enrolment_file(tmp_path / "enrolment.json"),
        fleet.trust.publish(text_bundle(tmp_path), release=1, now=fleet.now),
    )
    Connection(tmp_path / "device" / "identity", enrolment, "test").open()
    bench = AgentBench(tmp_path / "device", fleet.trust)
    bench.assign(target, 1, issued=fleet.now)
    bench.wall = fleet.now.timestamp()
    bench.agent.turn()
    (tmp_path / "device" / "identity" / "key.pem").write_bytes(b"rot")
    (tmp_path / "device" / "state.json").write_bytes(b"rot")
    agent = AgentProcess(tmp_path / "device", enrolment)  # its token is spent
    try:
        with LocalDevice(agent.folder) as device:
            assert device.predict(["hello"])["digest"] == target.digest
            while "identity" not in device.status()["blocked"]:
                assert agent.process.poll() is None
        fleet.enrolment_file(enrolment, token="token-2")
        fleet.wait_for(lambda: bool(fleet.syncs))
        assert fleet.syncs[-1][0] == "d-2"
    finally:
        agent.kill()


def test_agent_ends_when_its_parent_does(fleet: FakeFleet, tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "device", fleet.enrolment_file(tmp_path / "enrolment.json"))
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    assert agent.process.wait(10) == 0
    assert agent.process.stdout is not None
    agent.process.stdout.close()


@pytest.mark.slow
def test_killed_at_random_moments_it_still_answers_and_confirms(fleet: FakeFleet, tmp_path: Path) -> None:
    """SIGKILL of agent (and with it the model process) while releases follow one another; less often for each than it has tries."""
    rng = random.Random(7)
    enrolment = fleet.enrolment_file(tmp_path / "enrolment.json")
    targets = [fleet.trust.publish(text_bundle(tmp_path, release=n, seed=n), release=n, now=fleet.now) for n in range(1, 7)]
    allowed: set[str] = set()
    for generation, target in enumerate(targets, 1):
        fleet.assign("d-1", target, generation=generation)
        allowed.add(target.digest)
        for _ in range(TRIES - 1):
            agent = AgentProcess(tmp_path / "device", enrolment)
            try:
                if generation > 1:
                    with LocalDevice(agent.folder) as device:
                        assert device.predict(["hello"])["digest"] in allowed
                time.sleep(rng.uniform(0.0, 1.2))  # the moment of the kill
            finally:
                os.kill(agent.process.pid, signal.SIGKILL)
                agent.wait()
        agent = AgentProcess(tmp_path / "device", enrolment)
        try:
            fleet.wait_for(lambda g=generation: fleet.states("d-1", g)[-1:] == ["CONFIRMED"])  # type: ignore[misc]
            with LocalDevice(agent.folder) as device:
                assert device.predict(["hello"])["digest"] == target.digest
        finally:
            agent.kill()
    with pytest.raises(DeviceSilentError), LocalDevice(tmp_path / "device") as device:
        device.status()


def test_with_the_real_orchestrator_a_rollout_reaches_its_devices_and_a_bad_one_stops(tmp_path: Path) -> None:
    """Everything real: orchestrator process, enrolment, TUF, waves, agents."""
    trust, now = Trust.make(tmp_path, now=datetime.now(UTC)), datetime.now(UTC)
    command = [sys.executable, "-m", "workers.orchestrator", "--dir", str(tmp_path / "orchestrator"), "--exit-with-parent"]
    command += ["--repository", str(trust.repository), "--keys", str(trust.keys / "online"), "--busy-sync-s", "0.1", "--idle-sync-s", "0.2"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    agents: list[AgentProcess] = []
    try:
        assert server.stdout is not None
        assert json.loads(server.stdout.readline())["ready"]
        with Operator.open(tmp_path / "orchestrator") as operator:
            files = [tmp_path / "a.json", tmp_path / "b.json"]
            enrolment_files(operator, files, host="127.0.0.1", population="mail", root=trust.root())
            agents += [AgentProcess(tmp_path / f"device-{file.stem}", file) for file in files]
            assert roll_out(operator, trust, text_bundle(tmp_path, release=1), 1, now).confirmed == 2
            assert roll_out(operator, trust, text_bundle(tmp_path, release=2, seed=2), 2, now).state is RolloutState.COMPLETED
            running = {device.running_digest for device in operator.get_fleet().devices}
            bad = text_bundle(tmp_path, release=3, seed=3, golden=wrong_golden(3))
            ended = roll_out(operator, trust, bad, 3, now)
            assert ended.confirmed == 0
            assert {device.running_digest for device in operator.get_fleet().devices} == running
            for agent in agents:
                with LocalDevice(agent.folder) as device:
                    assert device.predict(["hello"])["digest"] in running
    finally:
        for agent in agents:
            agent.kill()
        server.kill()
        server.wait()
        for stream in (server.stdin, server.stdout):
            if stream is not None:
                stream.close()


def roll_out(operator: Operator, trust: Trust, bundle: BundleFile, number: int, now: datetime) -> RolloutView:
    target = target_of(bundle, release=number)
    operator.publish(trust.signer().add(target, now=now), bundle.path)
    name = f"rollout-{number}"
    operator.create_rollout(name, population="mail", target=target.path, waves=[0.5, 1.0], soak_s=0.2, deadline_s=8.0)
    operator.approve(name)
    deadline = time.monotonic() + 40
    while not (view := operator.get_rollout(name)).has_ended:
        assert time.monotonic() < deadline, view
        time.sleep(0.1)
    return view
