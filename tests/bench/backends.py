"""backends: a perceptron of 1.3 M parameters (256 numbers in, 100 classes) in the backends of `kdpipe teachers bench`, against eager.

Each turn is a process.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.bench.compare import Comparison, alone, compare

RUNS, ROWS, TOLERANCE = 3, 8192, 0.01
NET = """
import torch

def load():
    torch.manual_seed(1)
    widths = [256, 896, 1024, 100]
    layers = [layer for a, b in zip(widths, widths[1:]) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])
"""
RUN = f"""
name = "backends"
classes = {json.dumps([str(number) for number in range(100)])}
stream = {{ path = "samples.jsonl", input = "x", kind = "floats" }}
validation = {{ path = "samples.jsonl", input = "x", kind = "floats" }}
teacher = {{ use = "net:load", batch_rows = 1024, cpus = 2 }}
students.small.use = "mlp"
fleet.populations.phones.student = "small"
"""


def run(*, runs: int = RUNS, rows: int = ROWS) -> list[Comparison]:
    """Cases: rows/s of each backend against eager's of the same turn, and its label error; of a turn's fastest within the tolerance."""
    with tempfile.TemporaryDirectory(prefix="kdpipe-backends-") as folder:
        base = Path(folder)
        (base / "net.py").write_text(NET)
        (base / "run.toml").write_text(RUN)
        samples = np.random.default_rng(1).normal(size=(rows, 256)).round(4)
        (base / "samples.jsonl").write_text("".join(json.dumps({"x": row.tolist()}) + "\n" for row in samples))
        turns, fastest = zip(*(_turn(base, rows) for _ in range(runs)), strict=True)
    eager = [turn["eager"]["rows_per_s"] for turn in turns]
    best = [turn[backend]["rows_per_s"] for turn, backend in zip(turns, fastest, strict=True)]
    found = [compare(name="backends", case="best within tolerance", unit="rows/s", ours=best, against="eager", theirs=eager)]
    for backend in turns[0]:
        if backend == "eager" or any(turn[backend]["rows_per_s"] is None for turn in turns):
            continue
        speeds = [turn[backend]["rows_per_s"] for turn in turns]
        found.append(compare(name="backends", case=backend, unit="rows/s", ours=speeds, against="eager", theirs=eager))
        error = {what: turns[0][backend][what] for what in ("kl_mean_nats", "agreement")}
        found += [alone(name="backends", case=f"{backend}: {what}", unit="", figure=value, n=rows) for what, value in error.items()]
    return found


def _turn(base: Path, rows: int) -> tuple[dict[str, dict[str, float]], str]:
    """Figures of each backend, and the fastest within the tolerance: eager, if no other."""
    command = [str(Path(sys.executable).with_name("kdpipe")), "teachers", "bench", "run.toml", "--json", "--rows", str(rows)]
    done = subprocess.run([*command, "--tolerance", str(TOLERANCE)], cwd=base, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return {row["backend"]: row for row in answer["backends"]}, answer["fastest"]
