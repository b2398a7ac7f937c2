"""labelling: rows/s of labelling against the best plain torch script, Ray Data and the model alone.

400,000 rows of 256 floats in four Parquet files, a perceptron of 1.3 M parameters, 100 classes, batches of 1,024. `steady` is from the
first committed row to the last, `total` from a Ray that runs to the end, `CPU` by the CPU seconds of all processes, imports and Ray's own
included. Peers run in processes of their own, in turn, another one first in each; ratios are taken within a turn; the torch loop of a turn
is the better of one process with two threads and two with one.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from tests.bench.compare import Comparison, compare
from tests.bench.labelling_peers import PEERS, write_samples

TIMEOUT_S = 1200
SAMPLE_S = 0.1


def run(rows: int = 400_000, runs: int = 3) -> list[Comparison]:
    """Cases: `steady` and `total`; of what is only reported, Arrow IPC input and one actor of two threads."""
    steady: dict[str, list[float]] = defaultdict(list)
    total: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "labelling")
        write_samples(folder, rows=rows)
        for turn in range(runs):
            for peer in (*PEERS, *PEERS)[turn % len(PEERS) :][: len(PEERS)]:
                rows_per_s, rows_per_s_in_all, rows_per_cpu_s = measured(peer, folder)
                steady[peer].append(rows_per_s)
                total[peer].append(rows_per_s_in_all)
                cpu[peer].append(rows_per_cpu_s)
    torch_loop, torch_cpu = _best(steady), _best(cpu)
    pairs = (
        ("steady", steady["kdpipe"], "torch loop", torch_loop),
        ("steady", steady["kdpipe"], "ray data", steady["ray data"]),
        ("total", total["kdpipe"], "ray data", total["ray data"]),
        ("CPU", cpu["kdpipe"], "torch loop", torch_cpu),
        ("CPU", cpu["kdpipe"], "ray data", cpu["ray data"]),
        ("steady", steady["kdpipe"], "bare model", steady["bare model"]),
        ("steady, Arrow IPC in", steady["kdpipe, Arrow IPC in"], "torch loop, Parquet in", torch_loop),
        ("steady, 1 actor of 2 CPUs", steady["kdpipe, 1 actor of 2 CPUs"], "torch loop", torch_loop),
    )
    return [
        compare(name="labelling", case=case, unit="rows/CPU s" if case == "CPU" else "rows/s", ours=ours, against=peer, theirs=theirs)
        for case, ours, peer, theirs in pairs
    ]


def _best(figures: dict[str, list[float]]) -> list[float]:
    """Of the torch loops, turn by turn."""
    return [max(turn) for turn in zip(*(of for peer, of in figures.items() if peer.startswith("torch loop")), strict=True)]


def _sample_cpu(pid: int, cpu_s: dict[int, float]) -> None:
    """CPU seconds so far of a process and those below it; of one that is gone the last stays."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s[process.pid] = times.user + times.system


def measured(peer: str, folder: Path) -> tuple[float, float, float]:
    """Rows/s of one run of one peer, steady and in all, and rows per CPU second."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.labelling_peers", peer, str(folder)]
    cpu_s: dict[int, float] = {}
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        subprocess.Popen(command, stdout=out, stderr=err) as child,
    ):
        until_s = time.monotonic() + TIMEOUT_S
        while child.poll() is None:
            if time.monotonic() > until_s:
                child.kill()
            _sample_cpu(child.pid, cpu_s)
            time.sleep(SAMPLE_S)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise RuntimeError(f"{peer} failed:\n{err.read()}")
        found = json.loads(out.read().splitlines()[-1]) | {"cpu_s": sum(cpu_s.values())}
    steady, total, cpu = found["steady_rows"] / found["steady_s"], found["rows"] / found["total_s"], found["rows"] / found["cpu_s"]
    print(f"{peer}: steady {steady:.0f}, total {total:.0f} rows/s; {cpu:.0f} rows per CPU second", file=sys.stderr)
    return steady, total, cpu
