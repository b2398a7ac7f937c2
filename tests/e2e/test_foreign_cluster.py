"""`kdpipe run` on a Ray cluster that somebody else started: joined by RAY_ADDRESS, left running at the end."""

import os
import subprocess
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.kit.runs import KDPIPE

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
SMALL = (
    "students.small.steps=60",
    "gate.accuracy_min=0.1",
    "gate.agreement_min=0.1",
    "fleet.soak_s=0.1",
    "fleet.populations.panels.devices=1",
)
"""What joins and what is left running is the same for a run that learns little."""


def test_a_run_joins_the_cluster_it_is_told_of_and_leaves_it_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        run = subprocess.run(
            [*KDPIPE, "run", "digits", *(word for change in SMALL for word in ("--set", change))],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert "devices confirmed 1 of 1" in run.stdout
        with ray.init(address=cluster.address):
            assert len(ray.nodes()) == 1
    finally:
        cluster.shutdown()
