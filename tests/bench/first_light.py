"""first_light: wall seconds of `kdpipe run spam` in a new folder, from the command to its end and by stage, with a warm package cache.

The plumbing alone, without e-mails, is the digits recipe. There is no peer to compare with: nothing else goes from samples to devices.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.bench.compare import Comparison, alone
from tests.kit.runs import kdpipe, read

RECIPE = "spam"


def run(runs: int = 3) -> list[Comparison]:
    """Cases: from the command to its end (imports and exit included), to devices confirmed, the whole as the run counts it, each stage."""
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as home:
            began_s = time.perf_counter()
            ended = kdpipe("run", RECIPE, cwd=Path(home))
            took_s = time.perf_counter() - began_s
            assert ended.returncode == 0, ended.stdout + ended.stderr
            summary = read(Path(home) / "runs" / RECIPE / "run.json")
        assert "devices confirmed 3 of 3" in ended.stdout
        confirmed_s, whole_s = sum(summary["stages_s"].values()), summary["wall_s"]
        figures["from the command to its end"].append(took_s)
        figures["from the command to devices confirmed, the exit's part included"].append(took_s - whole_s + confirmed_s)
        figures["whole run by its own clock, figures and controls included"].append(whole_s)
        for stage, seconds in summary["stages_s"].items():
            figures[f"stage: {stage}"].append(seconds)
    return [
        alone(name="first_light", case=case, unit="s", figure=statistics.median(values), n=len(values)) for case, values in figures.items()
    ]
