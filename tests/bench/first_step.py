"""first_step: seconds from the first commit of a generation to the end of the first optimiser step on it.

The trainer is started and waits for labels; then the teacher begins. The clock runs from the put of the log record that has the first
commit, so it counts sealing the window, seeing it in the log, reading, checking and decoding its shards, and the step itself; beside it
the teacher goes on labelling, on another core.
"""

import tempfile
import time
from pathlib import Path

from tests.bench.compare import Comparison, alone
from tests.bench.halves import BATCH, Halves, write_samples

WIDTH, STARVED_WITHIN_S, POLL_S = 1024, 60.0, 0.01


def run(rows: int = 6_400, runs: int = 5) -> list[Comparison]:
    """Cases: median, least and greatest."""
    found = sorted(_first_step_s(rows) for _ in range(runs))
    figures = {"median": found[len(found) // 2], "least": found[0], "greatest": found[-1]}
    return [
        alone(name="first_step", case=f"after the first commit, {what}", unit="s", figure=seconds, n=runs)
        for what, seconds in figures.items()
    ]


def _first_step_s(rows: int) -> float:
    with tempfile.TemporaryDirectory(prefix="kdpipe-") as home:
        write_samples(Path(home), rows=rows)
        with Halves(Path(home), "both") as halves:
            label, train = halves.start("label", core=0), halves.start("train", core=1, student="small", width=WIDTH, steps=rows // BATCH)
            train.go()
            until_s = time.monotonic() + STARVED_WITHIN_S
            while not any(progress.starved for progress in halves.board.snapshot().values()):
                assert time.monotonic() < until_s, "the trainer does not say that it waits"
                time.sleep(POLL_S)
            label.go()
            return train.end()["first_step_unix_s"] - label.end()["first_commit_unix_s"]
