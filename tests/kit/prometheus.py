"""A real Prometheus on loopback, for tests: scrapes the ports it is given, evaluates the rules that ship, answers queries."""

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
INSTALL = "apt-get install -y --no-install-recommends prometheus"
EVERY = "200ms"


def binary(name: str) -> str:
    """Path of `prometheus` or `promtool`. A machine without it fails the test and says what installs it."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"no {name} on PATH; this test needs the real one: {INSTALL}")
    return found


class Prometheus:
    """One server process. `jobs` maps a job's name to the ports it scrapes. Use as a context manager."""

    def __init__(self, folder: Path, jobs: Mapping[str, Sequence[int]]) -> None:
        self._folder = folder
        scrapes = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]} for job, ports in jobs.items()
        ]
        timing = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
        config = {"global": timing, "rule_files": [str(RULES)], "scrape_configs": scrapes}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    def __enter__(self) -> Self:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=20)

    def ask(self, path: str, **parameters: str) -> Any:
        """`data` of the API's answer; None while it is not ready."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read(10_000_000))["data"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return None
        except OSError:
            return None

    def query(self, expression: str) -> dict[str, float]:
        """Label set (as sorted JSON, without the name) -> value now."""
        data = self.ask("query", query=expression)
        rows = data["result"] if data else []
        return {
            json.dumps({key: value for key, value in sorted(row["metric"].items()) if key != "__name__"}): float(row["value"][1])
            for row in rows
        }

    def wait_for(self, expression: str, values: Sequence[float], *, within_s: float = 30.0) -> None:
        """Returns once the query's values, sorted, are `values`. Fails with what was there instead, and with the server's log."""
        deadline = time.monotonic() + within_s
        while (found := sorted(self.query(expression).values())) != sorted(values):
            if time.monotonic() > deadline or self._process.poll() is not None:
                log = (self._folder / "prometheus.log").read_text()[-2000:]
                pytest.fail(f"{expression} is {found}, expected {sorted(values)}\n{log}")
            time.sleep(0.05)  # between two looks at another process
