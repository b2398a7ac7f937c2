"""labelling: rows/s of labelling against the best plain torch script, Ray Data and the model alone.

400,000 rows of 256 floats in four Parquet files, a perceptron of 1.3 M parameters, 100 classes, batches of 1,024. `steady` is from the
first committed row to the last, `total` from a Ray that runs to the end. Peers run in processes of their own, in turn, and each ratio is
taken within one turn; the torch loop of a turn is the better of one process with two threads and two with one.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.compare import Comparison, compare
from tests.bench.labelling_peers import PEERS, write_samples

TIMEOUT_S = 1200


def run(rows: int = 400_000, runs: int = 3) -> list[Comparison]:
    """Cases: `steady` and `total`; of what is only reported, Arrow IPC input and one actor of two threads."""
    steady: dict[str, list[float]] = defaultdict(list)
    total: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "labelling")
        write_samples(folder, rows=rows)
        for _ in range(runs):
            for peer in PEERS:
                rows_per_s, rows_per_s_in_all = _measured(peer, folder)
                steady[peer].append(rows_per_s)
                total[peer].append(rows_per_s_in_all)
    torch_loop = [max(turn) for turn in zip(*(figures for peer, figures in steady.items() if peer.startswith("torch loop")), strict=True)]
    pairs = (
        ("steady", steady["kdpipe"], "torch loop", torch_loop),
        ("steady", steady["kdpipe"], "ray data", steady["ray data"]),
        ("total", total["kdpipe"], "ray data", total["ray data"]),
        ("steady", steady["kdpipe"], "bare model", steady["bare model"]),
        ("steady, Arrow IPC in", steady["kdpipe, Arrow IPC in"], "torch loop, Parquet in", torch_loop),
        ("steady, 1 actor of 2 CPUs", steady["kdpipe, 1 actor of 2 CPUs"], "torch loop", torch_loop),
    )
    return [
        compare(name="labelling", case=case, unit="rows/s", ours=ours, against=peer, theirs=theirs) for case, ours, peer, theirs in pairs
    ]


def _measured(peer: str, folder: Path) -> tuple[float, float]:
    """Rows/s of one run of one peer, steady and in all."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.labelling_peers", peer, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"{peer} failed:\n{ended.stderr}")
    found = json.loads(ended.stdout.splitlines()[-1])
    steady, total = found["steady_rows"] / found["steady_s"], found["rows"] / found["total_s"]
    print(f"{peer}: steady {steady:.0f}, total {total:.0f} rows/s", file=sys.stderr)
    return steady, total
