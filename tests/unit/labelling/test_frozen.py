"""Two processes label one log: one is frozen in the middle, the other takes over and ends; the first wakes up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.labels.log import LogReader
from pipeline.labels.store import LocalStore
from tests.kit.labelling import Bench, MemorySource, assert_exactly_once

FROZEN = """
import sys
from pathlib import Path
from pipeline.labels.store import LocalStore
from tests.unit.labelling.test_frozen import bench_in

class Telling(LocalStore):
    def put_if_absent(self, key, data):
        made = super().put_if_absent(key, data)
        print(key, flush=True)
        return made

bench_in(Telling(Path(sys.argv[1]))).run()
"""


def bench_in(store: LocalStore) -> Bench:
    source = MemorySource({"a": [f"text {row}" + (" poison" if row % 40 == 9 else "") for row in range(400)]})
    return Bench(store, source, unit_rows=5, window_rows=40)


def test_a_driver_that_was_frozen_and_overtaken_is_fenced_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    root = tmp_path / "labels"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as frozen:
        assert frozen.stdout
        try:
            for _ in range(6):
                assert frozen.stdout.readline()
            frozen.send_signal(signal.SIGSTOP)
            before = LogReader(LocalStore(root)).refresh()
            assert 0 < before.rows_labelled < 390
            bench = bench_in(LocalStore(root))
            bench.run()
            ended = LogReader(LocalStore(root)).refresh()
        finally:
            frozen.send_signal(signal.SIGCONT)
        _, errors = frozen.communicate(timeout=60)
    assert frozen.returncode == 1
    assert "FencedError" in errors
    assert LogReader(LocalStore(root)).refresh() == ended, "it wrote nothing more"
    assert_exactly_once(LocalStore(root), bench.source)
