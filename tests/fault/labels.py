"""SIGKILL a process that labels, at random moments, start it again, and count what was lost or doubled.

    python -m tests.fault.labels --kills 200 --seed 1

Plain processes, no Ray: the whole of `Labelling` with teachers in its own thread, over a real folder. The child says, through a pipe, each
thing it is about to do with the store; the parent kills it at one of those, drawn from the seed, or a moment later, so that every phase
is hit. After the kills it runs to the end, and everything is read back. Prints a table, and with --json one object; exit code 1 if
anything is lost or doubled.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.labels import manifest
from pipeline.labels.log import LogReader
from pipeline.labels.order import Cursor
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.store import LocalStore
from tests.kit.labelling import Bench, MemorySource

PHASES = ("open", "plan", "put shard", "check shard", "commit", "seal", "end", "sweep", "file", "index")
ROWS_PER_PART = 150
UNIT_ROWS = 5
FILE_FACTS = 40
"""So few that a tail is filed now and then in a run of so few rows."""


class TracedStore(LocalStore):
    """Says what it is about to do, a line each, before it does it."""

    def __init__(self, root: Path, pipe: int) -> None:
        super().__init__(root)
        self._pipe = pipe

    def say(self, phase: str) -> None:
        os.write(self._pipe, f"{phase}\n".encode())

    def put_if_absent(self, key: str, data: bytes) -> bool:
        phase = next((phase for prefix, phase in _CREATE_PHASES if key.startswith(prefix)), None)
        if phase:
            self.say(phase)
        else:
            kinds = {entry["kind"] for entry in json.loads(data)["entries"]}
            self.say(next(name for kind, name in _LOG_PHASES if kind in kinds))
        return super().put_if_absent(key, data)

    def put(self, key: str, data: bytes) -> None:
        self.say(next((phase for prefix, phase in _PUT_PHASES if key.startswith(prefix)), "end"))
        super().put(key, data)

    def size(self, key: str) -> int | None:
        self.say("check shard")
        return super().size(key)

    def list(self, prefix: str) -> Iterator[str]:
        self.say("sweep" if prefix.startswith("shards/") else "index" if prefix.startswith("known/") else "open")
        return super().list(prefix)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.say("index" if key.startswith("known/") else "sweep")
            super().delete(key)


_CREATE_PHASES = (("shards/", "put shard"), ("log/manifests/", "file"), ("known/", "index"))
_PUT_PHASES = (("log/segments/", "file"), ("known/", "index"))
_LOG_PHASES = (
    ("end", "end"),
    ("open", "open"),
    ("plan", "plan"),
    ("seal", "seal"),
    ("commit", "commit"),
    ("quarantine", "commit"),
    ("sweep", "sweep"),
)


@dataclass
class Report:
    """What came of the kills."""

    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    rows: int = 0
    quarantined: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return self.lost == self.doubled == 0


def source_of(parts: int) -> MemorySource:
    """Samples, one in fifty of them bad, one in three known from the first part."""
    texts = {
        f"part-{part}": [f"sample {part if row % 3 else 0} {row}" + (" poison" if row % 50 == 7 else "") for row in range(ROWS_PER_PART)]
        for part in range(parts)
    }
    return MemorySource(texts)


def torture(root: Path, *, kills: int, seed: int) -> Report:
    """Kill a labelling process `kills` times; then let it finish and look at what it left."""
    draw = random.Random(seed)
    report = Report()
    began_s = time.monotonic()
    parts = 1
    while sum(report.kills.values()) < kills:
        # Most kills early in a process's life, some late; a finished generation gets another part, so that there is always work.
        phase = _run_child(
            root, parts, kill_after=draw.randrange(1, draw.choice((6, 40, 120))), delay_s=draw.choice((0, 0, draw.random() * 0.01))
        )
        if phase is None:
            parts += 1
        else:
            report.kills[phase] += 1
    if _run_child(root, parts, kill_after=None, delay_s=0) is not None:
        raise AssertionError("the last run was not to be killed")
    _count(root, source_of(parts), report, generation=parts)
    report.seconds = time.monotonic() - began_s
    return report


def _run_child(root: Path, parts: int, *, kill_after: int | None, delay_s: float) -> str | None:
    """Label in a process of its own. The phase in which it was killed, or None if it came to its end first."""
    told, tell = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(told)
        code = 1
        try:
            manifest.FILE_FACTS = FILE_FACTS
            bench = Bench(TracedStore(root, tell), source_of(parts), unit_rows=UNIT_ROWS, window_rows=40)
            # Generation n ends with n parts; the one before has ended, or there would not be part n.
            bench.run(parts)
            code = 0
        finally:
            os._exit(code)
    os.close(tell)
    phase, killed = "open", False
    with os.fdopen(told) as lines:
        for count, line in enumerate(lines, start=1):
            phase = line.strip()
            if count == kill_after:
                time.sleep(delay_s)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                break
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and os.waitstatus_to_exitcode(status) != 0:
        raise AssertionError(f"the child failed in phase {phase!r}")
    return phase if killed else None


def _count(root: Path, source: MemorySource, report: Report, *, generation: int) -> None:
    store = LocalStore(root)
    state = LogReader(store).refresh()
    reader = LabelReader(store, generation=generation, batch=64, seed=1)
    seen: Counter[str] = Counter()
    cursor = Cursor(log=state.log, seed=1, batch=64, generation=generation, epoch=1, pos=0)
    while isinstance(batch := reader.read(cursor), LabelBatch):
        seen.update(batch.sample_ids)
        cursor = batch.cursor_after
    good = {f"{name}:{row}" for name, texts in source.texts.items() for row, text in enumerate(texts) if "poison" not in text}
    report.rows, report.quarantined = len(good), state.rows_quarantined
    report.lost = len(good - set(seen)) + abs(sum(map(len, source.texts.values())) - len(good) - state.rows_quarantined)
    report.doubled = sum(count - 1 for count in seen.values()) + state.void_commits + len(set(seen) - good)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = torture(Path(folder) / "labels", kills=given.kills, seed=given.seed)
    for phase in PHASES:
        print(f"{phase:>12}  {report.kills[phase]:4} kills")
    print(f"{report.rows} rows, {report.quarantined} quarantined, {report.seconds:.1f} s: {report.lost} lost, {report.doubled} duplicated")
    if given.json:
        facts = {"name": "label_kills", "seed": given.seed, "kills": dict(report.kills), "rows": report.rows}
        print(json.dumps(facts | {"lost": report.lost, "duplicated": report.doubled}))
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
