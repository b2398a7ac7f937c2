"""first_light: wall seconds from `kdpipe run spam` in a new folder to all devices confirmed, by stage, with a warm package cache.

The plumbing alone, without e-mails, is the digits recipe. There is no peer to compare with: nothing else goes from samples to devices.
"""

import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.compare import Comparison, alone
from tests.kit.runs import kdpipe, read

RUNS = 3


def run() -> list[Comparison]:
    """Cases: `to devices confirmed`, `whole run`, and each stage."""
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as home:
            ended = kdpipe("run", "spam", cwd=Path(home), timeout_s=1200)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            summary = read(Path(home) / "runs" / "spam" / "run.json")
        assert "devices confirmed 3 of 3" in ended.stdout
        figures["to devices confirmed"].append(sum(summary["stages_s"].values()))
        figures["whole run, figures and controls included"].append(summary["wall_s"])
        for stage, seconds in summary["stages_s"].items():
            figures[f"stage: {stage}"].append(seconds)
    return [
        alone(name="first_light", case=case, unit="s", figure=statistics.median(values), n=len(values)) for case, values in figures.items()
    ]
