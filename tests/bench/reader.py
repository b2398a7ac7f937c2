"""reader: rows/s and seconds to the first batch of our reader, against MosaicML Streaming, LitData and Hugging Face's streaming.

Rows of 256 float32 and 100 float16, batches of 256 tensors, shuffled over 4,096 rows or more by everyone. Readers take turns in the
environment of `make bench-env`, each in a process of its own and for as long as the others: it reads its epochs one after the other until
the time is up. The files are in the page cache of the machine for all. `rows per CPU second`, over all threads, is what another program on
the machine disturbs least.

For a row everyone copies it into a shuffled batch and widens its halves. Ours checks the crc32 of its shard each epoch and renormalises its
label in float32 besides. Ours reads with the loop's thread and one that loads the next window, the data set with one more that reads ahead;
the others with what their streaming begins by itself.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.bench.compare import Comparison, compare
from tests.bench.reader_peers import READERS

ENVIRONMENT = Path(".venv-bench/bin/python")
TIMEOUT_S = 600
TURN_S = 3.0
OURS, LIMIT = ("kdpipe", "kdpipe data set", "kdpipe data set, all columns"), "raw mmap"
PEERS = [peer for peer in READERS if peer not in (*OURS, LIMIT)]


def run(rows: int = 100_000, runs: int = 7) -> list[Comparison]:
    """Cases: `rows/s`, `rows per CPU second` and `first batch`, against each peer and the best of them; the first two against the limit."""
    if not ENVIRONMENT.exists():
        raise SystemExit(f"no {ENVIRONMENT}; expected the environment that the peers are installed in; `make bench-env` makes it")
    speed, thrift, first = (defaultdict[str, list[float]](list) for _ in range(3))
    with tempfile.TemporaryDirectory() as home:
        for peer in READERS:
            _run(peer, Path(home, peer.replace(" ", "-")), "write", str(rows))
        for _ in range(runs):
            for peer in READERS:
                found = json.loads(_run(peer, Path(home, peer.replace(" ", "-")), "read", str(TURN_S)).splitlines()[-1])
                speed[peer].append(found["rows"] / found["seconds"])
                thrift[peer].append(found["rows"] / found["cpu_seconds"])
                first[peer].append(found["first_batch_s"])
                said = f"{speed[peer][-1]:.0f} rows/s, {thrift[peer][-1]:.0f} per CPU second, first batch after {first[peer][-1]:.3f} s"
                print(f"{peer}: {said}", file=sys.stderr)
    return [
        *(_against(speed, case="rows/s", unit="rows/s", best=max)),
        *(_against(thrift, case="rows per CPU second", unit="rows/s", best=max)),
        *(_against({peer: of for peer, of in first.items() if peer != LIMIT}, case="first batch", unit="s", best=min)),
    ]


def _against(found: Mapping[str, list[float]], *, case: str, unit: str, best: Callable[[Iterable[float]], float]) -> list[Comparison]:
    of_peers = {"best of the peers": [best(turn) for turn in zip(*(found[peer] for peer in PEERS), strict=True)]}
    others = {peer: turns for peer, turns in found.items() if peer not in OURS}
    cases = {ours: case if ours == "kdpipe" else f"{case}, {ours}" for ours in OURS}
    return [
        compare(name="reader", case=named, unit=unit, ours=found[ours], against=peer, theirs=theirs)
        for ours, named in cases.items()
        for peer, theirs in (of_peers | others).items()
    ]


def _run(peer: str, folder: Path, *what: str) -> str:
    command = [str(ENVIRONMENT), "-W", "ignore", "-m", "tests.bench.reader_peers", peer, str(folder), *what]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"{peer} {what[0]} failed:\n{ended.stderr[-4000:]}")
    return ended.stdout
