"""many_students: three students that learn at once from the same labels, against three runs of one student each, one after another.

One teacher on one core, all trainers of a run on another. Rows that the teacher was asked about are counted from the logs. The students
are of three sizes, together less work than the teacher's: where training is the longer half, the wall ratio is that of training.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.labels.log import LogReader
from pipeline.labels.store import open_store
from pipeline.labels.verify import teacher_cost
from tests.bench.compare import Comparison, compare
from tests.bench.halves import BATCH, Halves, wall_s, write_samples

WIDTHS = {"small": 128, "middle": 256, "large": 384}


def run(rows: int = 38_400, runs: int = 3) -> list[Comparison]:
    """Cases: rows asked of the teacher, and wall seconds."""
    found: dict[str, list[tuple[int, float]]] = {"at once": [], "one after another": []}
    for turn in range(runs):
        with tempfile.TemporaryDirectory(prefix="kdpipe-") as home:
            write_samples(Path(home), rows=rows)
            found["at once"].append(_learn(Path(home), list(WIDTHS), rows=rows))
            alone = [_learn(Path(home), [name], rows=rows) for name in WIDTHS]
            found["one after another"].append((sum(asked for asked, _ in alone), sum(seconds for _, seconds in alone)))
        print(f"turn {turn}: " + ", ".join(f"{way} {turns[-1][1]:.1f} s" for way, turns in found.items()), file=sys.stderr)
    at_once, apart = found.values()
    ways = (("rows asked of the teacher", "rows", 0), ("wall", "s", 1))
    return [
        compare(
            name="many_students",
            case=f"three students at once: {case}",
            unit=unit,
            ours=[turn[which] for turn in at_once],
            against="three runs one after another",
            theirs=[turn[which] for turn in apart],
        )
        for case, unit, which in ways
    ]


def _learn(folder: Path, students: Sequence[str], *, rows: int) -> tuple[int, float]:
    """Rows that the teacher was asked about, and the wall seconds."""
    with Halves(folder, "-".join(students)) as halves:
        trainers = [halves.start("train", core=1, student=name, width=WIDTHS[name], steps=rows // BATCH) for name in students]
        started = [halves.start("label", core=0), *trainers]
        for half in started:
            half.go()
        seconds = wall_s(*[half.end() for half in started])
        cost = teacher_cost(LogReader(open_store(str(halves.labels))).refresh(), 1)
        return cost.rows - cost.rows_reused, seconds
