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
    """Cases: rows/s of each backend against eager's of the same turn, and its label error."""
    with tempfile.TemporaryDirectory(prefix="kdpipe-backends-") as folder:
        base = Path(folder)
        (base / "net.py").write_text(NET)
        (base / "run.toml").write_text(RUN)
        samples = np.random.default_rng(1).normal(size=(rows, 256)).round(4)
        (base / "samples.jsonl").write_text("".join(json.dumps({"x": row.tolist()}) + "\n" for row in samples))
        turns = [_turn(base, rows) for _ in range(runs)]
    found = []
    for backend in turns[0]:
        if backend == "eager" or any(turn[backend]["rows_per_s"] is None for turn in turns):
            continue
        speeds = {name: [turn[name]["rows_per_s"] for turn in turns] for name in (backend, "eager")}
        found.append(compare(name="backends", case=backend, unit="rows/s", ours=speeds[backend], against="eager", theirs=speeds["eager"]))
        error = {what: turns[0][backend][what] for what in ("kl_mean_nats", "agreement")}
        found += [alone(name="backends", case=f"{backend}: {what}", unit="", figure=value, n=rows) for what, value in error.items()]
    return found


def _turn(base: Path, rows: int) -> dict[str, dict[str, float]]:
    command = [str(Path(sys.executable).with_name("kdpipe")), "teachers", "bench", "run.toml", "--json", "--rows", str(rows)]
    done = subprocess.run([*command, "--tolerance", str(TOLERANCE)], cwd=base, check=True, capture_output=True, text=True)
    return {row["backend"]: row for row in json.loads(done.stdout.splitlines()[-1])["backends"]}
