"""reader: rows/s and seconds to the first batch of our reader, against MosaicML Streaming, LitData and Hugging Face's streaming.

100,000 rows of 256 float32 and 100 float16, batches of 256 tensors, shuffled over 4,096 rows or more by everyone. Peers run in turn in
the environment of `make bench-env`, each read in a process of its own, the files in the page cache of the machine for all.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.compare import Comparison, compare
from tests.bench.reader_peers import READERS

ENVIRONMENT = Path(".venv-bench/bin/python")
TIMEOUT_S = 600
PEERS = [peer for peer in READERS if peer not in ("kdpipe", "raw mmap")]


def run(rows: int = 100_000, runs: int = 5) -> list[Comparison]:
    """Cases: `rows/s` and `first batch`, against each peer and the best of them; `rows/s` against the limit."""
    if not ENVIRONMENT.exists():
        raise SystemExit(f"no {ENVIRONMENT}; expected the environment that the peers are installed in; `make bench-env` makes it")
    speed, first = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory() as home:
        for peer in READERS:
            _run(peer, Path(home, peer.replace(" ", "-")), "write", str(rows))
        for _ in range(runs):
            for peer in READERS:
                found = json.loads(_run(peer, Path(home, peer.replace(" ", "-")), "read").splitlines()[-1])
                speed[peer].append(found["rows"] / found["seconds"])
                first[peer].append(found["first_batch_s"])
                print(f"{peer}: {speed[peer][-1]:.0f} rows/s, first batch after {first[peer][-1]:.3f} s", file=sys.stderr)
    best = [max(turn) for turn in zip(*(speed[peer] for peer in PEERS), strict=True)]
    soonest = [min(turn) for turn in zip(*(first[peer] for peer in PEERS), strict=True)]
    faster = [("best of the peers", best), *((peer, speed[peer]) for peer in PEERS), ("raw mmap", speed["raw mmap"])]
    sooner = [("soonest of the peers", soonest), *((peer, first[peer]) for peer in PEERS)]
    return [
        *(compare(name="reader", case="rows/s", unit="rows/s", ours=speed["kdpipe"], against=peer, theirs=of) for peer, of in faster),
        *(compare(name="reader", case="first batch", unit="s", ours=first["kdpipe"], against=peer, theirs=of) for peer, of in sooner),
    ]


def _run(peer: str, folder: Path, *what: str) -> str:
    command = [str(ENVIRONMENT), "-W", "ignore", "-m", "tests.bench.reader_peers", peer, str(folder), *what]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"{peer} {what[0]} failed:\n{ended.stderr[-4000:]}")
    return ended.stdout
