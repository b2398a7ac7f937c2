"""commit_visible: from the put of a log record to the moment at which a trainer in another process has its commits.

One process labels in-memory texts as fast as it can into a folder on disk, committing in groups as ever; the other follows the log as a
trainer does, with the trainer's pause between looks. Both read the machine's one monotonic clock. A commit's delay is that of its record;
"put to visible" begins when the record's put began, "done to visible" when the unit was done, so that waiting for the group counts, too.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.labels.entries import Commit, Record
from pipeline.labels.log import LogReader
from pipeline.labels.store import LocalStore
from tests.bench.compare import Comparison, alone
from tests.kit.labelling import Bench, MemorySource
from workers.labelling.session import Instant
from workers.teaching import POLL_S

UNITS, UNIT_ROWS = 4_000, 64


def run(*, units: int = UNITS) -> list[Comparison]:
    """Cases: median, 99th percentile and longest delay, in seconds, over all commits."""
    with tempfile.TemporaryDirectory(prefix="kdpipe-visible-") as folder:
        command = [sys.executable, "-m", "tests.bench.commit_visible"]
        reader = subprocess.Popen([*command, "read", folder, str(units)], stdout=subprocess.PIPE, text=True)
        writer = subprocess.run([*command, "write", folder, str(units)], check=True, capture_output=True, text=True)
        answer, _ = reader.communicate(timeout=120)
    put_s, done_s = json.loads(writer.stdout)
    seen_s = json.loads(answer)
    assert reader.returncode == 0
    assert len(seen_s) == len(put_s) == len(done_s) == units
    found = []
    for what, began_s in (("put to visible", put_s), ("done to visible", done_s)):
        delays = np.array(seen_s) - np.array(began_s)
        figures = {"p50": np.quantile(delays, 0.5), "p99": np.quantile(delays, 0.99), "longest": delays.max()}
        found += [alone(name="commit_visible", case=f"{what}, {case}", unit="s", figure=float(s), n=units) for case, s in figures.items()]
    return found


class _Timed(LocalStore):
    """Notes, for each commit in log order, when its record's put began and when its shard was there."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.put_s: list[float] = []
        self.done_s: list[float] = []
        self._stored_s: dict[str, float] = {}

    def put_if_absent(self, key: str, data: bytes) -> bool:
        now_s = time.monotonic()
        if key.startswith("log/0"):
            commits = [entry for entry in Record.decode(data, key=key).entries if isinstance(entry, Commit)]
            self.put_s += [now_s] * len(commits)
            self.done_s += [self._stored_s[commit.shard.key] for commit in commits]
        made = super().put_if_absent(key, data)
        self._stored_s[key] = time.monotonic()
        return made


def write(folder: Path, units: int) -> None:
    store = _Timed(folder / "labels")
    bench = Bench(store, MemorySource({"a": [f"text {row}" for row in range(units * UNIT_ROWS)]}), unit_rows=UNIT_ROWS, window_rows=1024)
    bench.now = lambda: Instant(mono_s=time.monotonic(), unix_s=time.time())  # type: ignore[method-assign]
    bench.teacher_section = bench.teacher_section.model_copy(update={"batch_rows": UNIT_ROWS})
    bench.run()
    print(json.dumps([store.put_s, store.done_s]))


def read(folder: Path, units: int) -> None:
    follower, seen_s = LogReader(LocalStore(folder / "labels")), list[float]()
    while len(seen_s) < units:
        commits = len(follower.refresh().commits)
        now_s = time.monotonic()
        if commits == len(seen_s):
            time.sleep(POLL_S)
        seen_s += [now_s] * (commits - len(seen_s))
    print(json.dumps(seen_s))


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
