"""log_scale: opening, resuming and looking up a log of 1,000,000 commits against one of 10,000 with a tail of the same length.

Each log was written by `LogWriter` as a run does it: generations of 5,000 units, committed in a permuted order, 25 commits and some
seals a record, a record a second by its clock. It is opened by a process of its own, whose private memory is counted. `written` is all
bytes put into the log over its life, per commit: a log that rewrote its history would grow with it.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from pipeline.labels.entries import Commit, End, Entry, Plan, Seal, ShardRef
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.order import permutation
from pipeline.labels.rowspace import units_left
from pipeline.labels.store import LocalStore
from tests.bench.compare import Comparison, compare

LARGE, SMALL = 1_000_000, 10_000
UNITS = 5_000
"""Of a generation."""
UNIT_ROWS = 1_000
PER_RECORD = 25
PER_WINDOW = 8
TAIL = 2_505
"""Commits of the generation that is under way."""
LOOKUPS = 1_000
RUNS = 5

MEASURES = {"open": "s", "resume": "s", "look up": "s", "private memory": "bytes"}


def run() -> list[Comparison]:
    """Cases: seconds and bytes of the large log against the small one."""
    with tempfile.TemporaryDirectory(prefix="kdpipe-log-scale-") as folder:
        roots = {commits: Path(folder) / str(commits) for commits in (LARGE, SMALL)}
        written = {commits: [write_log(root, commits + TAIL) / (commits + TAIL)] for commits, root in roots.items()}
        found: dict[int, list[dict[str, float]]] = {commits: [] for commits in roots}
        for _ in range(RUNS):
            for commits, root in roots.items():
                found[commits].append(_measured(root))
    against = f"{SMALL:,} commits"
    cases = [
        compare(
            name="log_scale",
            case=f"{what}, {LARGE:,} commits",
            unit=unit,
            ours=[one[what] for one in found[LARGE]],
            against=against,
            theirs=[one[what] for one in found[SMALL]],
        )
        for what, unit in MEASURES.items()
    ]
    rewritten = compare(
        name="log_scale",
        case=f"written a commit, {LARGE:,} commits",
        unit="bytes",
        ours=written[LARGE],
        against=against,
        theirs=written[SMALL],
    )
    return [*cases, rewritten]


class CountingStore(LocalStore):
    """Counts the bytes that are put."""

    bytes_put = 0

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.bytes_put += len(data)
        return super().put_if_absent(key, data)

    def put(self, key: str, data: bytes) -> None:
        self.bytes_put += len(data)
        super().put(key, data)


def write_log(root: Path, commits: int) -> int:
    """Write a log of so many commits; the bytes that were put for it."""
    store, clock_s = CountingStore(root), 0.0
    writer = LogWriter.open(store, holder="log_scale", classes=("a", "b"), nonce="log_scale", now_unix_s=clock_s)
    for generation, before in enumerate(range(0, commits, UNITS), start=1):
        first = before * UNIT_ROWS
        writer.queue([Plan(part=f"part-{generation}", name=f"part-{generation}", first=first, rows=UNITS * UNIT_ROWS, stride=UNITS)])
        order = permutation(UNITS, generation)[: commits - before].tolist()
        for at in range(0, len(order), PER_RECORD):
            clock_s += 1
            writer.queue(_entries(writer, [before + unit for unit in order[at : at + PER_RECORD]]))
            writer.flush(now_unix_s=clock_s)
            writer.file_if_due(now_unix_s=clock_s)
        if len(order) == UNITS:
            writer.queue([*_seals(writer.state.sealed_commits, len(writer.state.windows), before + UNITS), End(generation=generation)])
            writer.flush(now_unix_s=clock_s)
    writer.write_head()
    return store.bytes_put


def _entries(writer: LogWriter, units: list[int]) -> list[Entry]:
    state = writer.state
    commits = [_commit(unit) for unit in units]
    whole = (len(state.commits) + len(commits)) // PER_WINDOW * PER_WINDOW
    return [*commits, *_seals(state.sealed_commits, len(state.windows), whole)]


def _commit(unit: int) -> Commit:
    key = f"shards/{1:08d}/{unit * UNIT_ROWS:012d}-{(unit + 1) * UNIT_ROWS:012d}-{unit}.arrow"
    shard = ShardRef(key=key, rows=UNIT_ROWS, bytes=200_000 + unit % 1000, crc32=unit * 2_654_435_761 % 2**32)
    return Commit(start=unit * UNIT_ROWS, stop=(unit + 1) * UNIT_ROWS, shard=shard, teacher="0" * 32, teacher_s=0.25)


def _seals(first: int, window: int, stop: int) -> list[Entry]:
    cuts = [*range(first, stop, PER_WINDOW), stop] if stop > first else []
    return [
        Seal(window=window + number, first_commit=begins, stop_commit=ends, rows=(ends - begins) * UNIT_ROWS)
        for number, (begins, ends) in enumerate(pairwise(cuts))
    ]


def _measured(root: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "tests.bench.log_scale", str(root)], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measure(root: Path) -> dict[str, float]:
    """Open, resume and look up, in this process."""
    store = LocalStore(root)
    private, began_s = _private_bytes(), time.perf_counter()
    state = LogReader(store).refresh()
    opened_s = time.perf_counter()
    LogWriter.open(store, holder="again", classes=("a", "b"), nonce=f"again {time.time_ns()}", now_unix_s=0)
    left = sum(1 for _ in units_left(state.plans, state.done, unit_rows=UNIT_ROWS))
    resumed_s = time.perf_counter()
    assert left == UNITS - len(state.commits) % UNITS, left
    seconds = []
    for commit in [_commit(number * 997 % (len(state.commits) - TAIL)) for number in range(LOOKUPS)]:
        began = time.perf_counter()
        assert state.commit_of(commit.shard.key, start=commit.start)
        seconds.append(time.perf_counter() - began)
    return {
        "open": opened_s - began_s,
        "resume": resumed_s - opened_s,
        "look up": statistics.median(seconds),
        "private memory": _private_bytes() - private,
    }


def _private_bytes() -> int:
    """Memory of this process that is not a view of a file."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
