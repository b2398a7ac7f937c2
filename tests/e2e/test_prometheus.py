"""A real Prometheus reads what kdpipe says of itself, and the rules that ship fit the series that are there."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.test_agent_processes import roll_out
from tests.kit.agent_process import AgentProcess
from tests.kit.bundles import Trust, text_bundle
from tests.kit.prometheus import RULES, Prometheus, binary
from workers.edge.metrics import EdgeMetrics
from workers.metrics import DriverMetrics, MetricsServer
from workers.orchestrator.client import Operator, enrolment_files
from workers.orchestrator.metrics import OrchestratorMetrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def driver() -> Iterator[MetricsServer]:
    with MetricsServer() as server:
        yield server


@pytest.fixture
def orchestrator() -> Iterator[MetricsServer]:
    with MetricsServer() as server:
        OrchestratorMetrics(server)
        yield server


@pytest.fixture
def agent() -> Iterator[MetricsServer]:
    with MetricsServer() as server:
        EdgeMetrics(server.registry)
        yield server


def driver_series(server: MetricsServer) -> DriverMetrics:
    return DriverMetrics(server.registry, version="0.1.0", students=["small", "tiny"], populations=["desk"])


def exposition(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text: str = answer.read(1_000_000).decode()
    return text


def test_a_prometheus_reads_what_the_driver_says_and_sees_it_change(tmp_path: Path, driver: MetricsServer):
    series = driver_series(driver)
    series.labels(planned=4000, committed=1500, quarantined=2)
    with Prometheus(tmp_path, {"kdpipe-driver": [driver.port]}) as prometheus:
        prometheus.wait_for("kdpipe_labels_committed_total", [1500])
        prometheus.wait_for("kdpipe_gate_verdicts_total", [0, 0, 0, 0])
        series.labels(planned=4000, committed=3998, quarantined=2)
        series.verdict("small", ships=True)
        series.rollout("desk", offered=0, confirmed=2, failed=1, lost=0, devices=3)
        prometheus.wait_for("kdpipe_labels_committed_total", [3998])
        prometheus.wait_for("sum by (student) (kdpipe_gate_verdicts_total)", [0, 1])
        prometheus.wait_for("increase(kdpipe_gate_verdicts_total{student='small', verdict='ships'}[1m]) > bool 0", [1])
        prometheus.wait_for("kdpipe_rollout_devices{state='confirmed'}", [2])
        prometheus.wait_for("ALERTS{alertname='KdpipeRolloutFailing', alertstate='firing'}", [1])


def test_a_driver_that_ended_is_seen_as_down_not_as_zero(tmp_path: Path, driver: MetricsServer):
    driver_series(driver)
    with Prometheus(tmp_path, {"kdpipe-driver": [driver.port]}) as prometheus:
        prometheus.wait_for("up", [1])
        driver.close()
        prometheus.wait_for("up", [0])
        prometheus.wait_for("kdpipe_generation", [])


def test_every_rule_that_ships_evaluates_over_all_three_kinds_of_process(
    tmp_path: Path, driver: MetricsServer, orchestrator: MetricsServer, agent: MetricsServer
):
    driver_series(driver)
    jobs = {"kdpipe-driver": [driver.port], "kdpipe-orchestrator": [orchestrator.port], "kdpipe-edge": [agent.port]}
    with Prometheus(tmp_path, jobs) as prometheus:
        prometheus.wait_for("up", [1, 1, 1])
        prometheus.wait_for("job:kdpipe_labels_committed:rate5m", [0])
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert len(rules) >= 10
        assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] == "err"] == []


def test_a_rule_speaks_only_of_series_that_exist(driver: MetricsServer, orchestrator: MetricsServer, agent: MetricsServer):
    driver_series(driver)
    there = set(re.findall(r"^(kdpipe_\w+)", "\n".join(map(exposition, (driver, orchestrator, agent))), re.MULTILINE))
    lines = [line for line in RULES.read_text().splitlines() if not line.strip().startswith("#")]
    spoken_of = {name for line in lines for name in re.findall(r"(?<![:\w])kdpipe_\w+", line)}
    assert spoken_of
    assert spoken_of <= there


@pytest.mark.parametrize("process", ["driver", "orchestrator", "agent"])
def test_names_follow_the_conventions(request: pytest.FixtureRequest, process: str):
    server: MetricsServer = request.getfixturevalue(process)
    if process == "driver":
        driver_series(server)
    text = exposition(server)
    told = subprocess.run([binary("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr
    assert not re.search(r"\bdevice(_id)?=", text), "thousands of devices must not become thousands of series"


def test_orchestrator_and_agent_are_scraped_through_a_rollout_and_no_series_names_a_device(tmp_path: Path):
    trust, now = Trust.make(tmp_path, now=datetime.now(UTC)), datetime.now(UTC)
    fleet = tmp_path / "fleet"
    command = [sys.executable, "-m", "workers.orchestrator", "--dir", str(fleet), "--repository", str(trust.repository)]
    command += ["--keys", str(trust.keys / "online"), "--busy-sync-s", "0.1", "--idle-sync-s", "0.2", "--exit-with-parent"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    agent: AgentProcess | None = None
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        with Operator.open(fleet) as operator:
            enrolment = tmp_path / "first.json"
            enrolment_files(operator, [enrolment], host="127.0.0.1", population="mail", root=trust.root())
            agent = AgentProcess(tmp_path / "device", enrolment)
            jobs = {"kdpipe-orchestrator": [ready["metrics_port"]], "kdpipe-edge": [agent.ready["metrics_port"]]}
            with Prometheus(tmp_path, jobs) as prometheus:
                prometheus.wait_for("up", [1, 1])
                prometheus.wait_for("kdpipe_edge_installs_total{state='CONFIRMED'}", [0])
                assert roll_out(operator, trust, text_bundle(tmp_path, release=1), 1, now).confirmed == 1
                prometheus.wait_for("kdpipe_edge_installs_total{state='CONFIRMED'}", [1])
                prometheus.wait_for("increase(kdpipe_edge_installs_total{state='CONFIRMED'}[1m]) > bool 0", [1])
                prometheus.wait_for("kdpipe_orchestrator_devices{state='confirmed'}", [1])
                prometheus.wait_for("kdpipe_orchestrator_timestamp_expires_unix_seconds - time() > bool 3600", [1])
                prometheus.wait_for("ALERTS", [])
                labels = " ".join(prometheus.query("{__name__=~'kdpipe.+'}"))
                assert labels
                assert not [device for device in operator.get_fleet().devices if device.device_id in labels]
    finally:
        if agent is not None:
            agent.kill()
        server.kill()
        server.communicate()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "--lint=all", "--lint-fatal", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_what_ships_for_prometheus_is_valid_and_alerts_when_it_says(arguments: tuple[str, ...]):
    told = subprocess.run([binary("promtool"), *arguments], capture_output=True, text=True, timeout=60, cwd=RULES.parent)
    assert told.returncode == 0, told.stdout + told.stderr
