"""What a scrape sees: every series from the start, totals that never go back, a port that is really freed."""

import socket
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from workers.metrics import DEVICE_STATES, DriverMetrics, MetricsPortError, MetricsServer


def scrape(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read(1_000_000).decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def driver_metrics(registry: CollectorRegistry) -> DriverMetrics:
    return DriverMetrics(registry, version="0.1.0", students=["small", "tiny"], populations=["desk"])


def test_every_label_set_is_there_before_anything_happens():
    with MetricsServer() as server:
        driver_metrics(server.registry)
        seen = scrape(server.port)
    for state in DEVICE_STATES:
        assert seen["kdpipe_rollout_devices", frozenset({("population", "desk"), ("state", state)})] == 0
    for verdict in ("ships", "kept_incumbent"):
        assert seen["kdpipe_gate_verdicts_total", frozenset({("student", "tiny"), ("verdict", verdict)})] == 0
    assert seen["kdpipe_labels_committed_total", frozenset()] == 0
    assert not [name for name, _ in seen if name.endswith("_created")]


def test_what_the_driver_says_is_what_a_scrape_reads():
    with MetricsServer() as server:
        metrics = driver_metrics(server.registry)
        metrics.labels(planned=4000, committed=1500, quarantined=2)
        metrics.teachers(rows=1502, seconds=3.5, actors=2)
        metrics.student("small", step=40, loss_nats=0.25, lag_rows=220, starved=True)
        metrics.generation(3)
        metrics.verdict("small", ships=True)
        metrics.rollout("desk", offered=1, confirmed=1, failed=0, lost=0, devices=3)
        seen = scrape(server.port)
    none: frozenset[tuple[str, str]] = frozenset()
    small = frozenset({("student", "small")})
    assert seen["kdpipe_labels_planned_total", none] == 4000
    assert seen["kdpipe_labels_quarantined_total", none] == 2
    assert seen["kdpipe_teacher_seconds_total", none] == 3.5
    assert seen["kdpipe_teacher_actors", none] == 2
    assert seen["kdpipe_student_loss_nats", small] == 0.25
    assert seen["kdpipe_student_lag_rows", small] == 220
    assert seen["kdpipe_student_starved", small] == 1
    assert seen["kdpipe_generation", none] == 3
    assert seen["kdpipe_gate_verdicts_total", small | {("verdict", "ships")}] == 1
    assert seen["kdpipe_rollout_devices", frozenset({("population", "desk"), ("state", "waiting")})] == 1


def test_a_loss_that_is_not_there_yet_keeps_the_last_one():
    registry = CollectorRegistry()
    metrics = driver_metrics(registry)
    metrics.student("small", step=1, loss_nats=0.5, lag_rows=0, starved=False)
    metrics.student("small", step=2, loss_nats=None, lag_rows=0, starved=False)
    assert registry.get_sample_value("kdpipe_student_loss_nats", {"student": "small"}) == 0.5
    assert registry.get_sample_value("kdpipe_student_step", {"student": "small"}) == 2


@given(totals=st.lists(st.integers(0, 10**9)))
def test_a_total_is_the_largest_ever_said_and_never_goes_back(totals: list[int]):
    registry = CollectorRegistry()
    metrics = driver_metrics(registry)
    before = 0.0
    for total in totals:
        metrics.labels(planned=total, committed=total, quarantined=0)
        now = registry.get_sample_value("kdpipe_labels_committed_total")
        assert now is not None
        assert now >= before
        before = now
    assert before == max(totals, default=0)


def test_a_taken_port_is_one_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MetricsPortError, match=rf"127\.0\.0\.1:{port}: Address already in use; .*port 0 picks") as caught:
            MetricsServer(port=port).start()
    assert caught.value.exit_code == 10


def test_a_closed_server_frees_its_port_and_may_start_again():
    server = MetricsServer()
    port = server.start()
    server.close()
    server.close()
    with socket.create_server(("127.0.0.1", port)):
        pass
    assert server.start() > 0
    server.close()


def test_two_hubs_in_one_process_do_not_mix():
    with MetricsServer() as one, MetricsServer() as other:
        driver_metrics(one.registry).generation(1)
        driver_metrics(other.registry).generation(2)
        assert scrape(one.port)["kdpipe_generation", frozenset()] == 1
        assert scrape(other.port)["kdpipe_generation", frozenset()] == 2
