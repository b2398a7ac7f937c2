"""relabel: rows/s of labelling an unchanged source again, against labelling it for the first time.

200,000 rows of 256 floats in four Parquet files, a perceptron of 1.3 M parameters, 100 classes: the samples and the teacher of `labelling`.
No Ray: one teacher in the process that labels, so that what is compared is the work and not how a cluster starts. Each labelling is a
process of its own; its figure is from opening log and source to the end of the generation. That the second asks the teacher nothing is
checked, not assumed; it still reads every byte of the source, to see that nothing has changed.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.bench.compare import Comparison, alone, compare
from tests.bench.labelling_peers import BATCH_ROWS, NAMES, UNIT_ROWS, write_samples

TIMEOUT_S = 600


def run(rows: int = 200_000, runs: int = 3) -> list[Comparison]:
    """Cases: an unchanged source again, the same with the start of the process, and the rows the teacher was asked about."""
    first, again, first_process, again_process = list[float](), list[float](), list[float](), list[float]()
    asked = 0
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "relabel")
        write_samples(folder, rows=rows)
        for turn in range(runs):
            for generation, figures, whole in ((1, first, first_process), (2, again, again_process)):
                began_s = time.perf_counter()
                seconds, calls = _labelled(folder, labels=folder / f"labels-{turn}", generation=generation, rows=rows)
                figures.append(rows / seconds)
                whole.append(rows / (time.perf_counter() - began_s))
                asked += calls if generation == 2 else 0
    against = "first labelling"
    return [
        compare(name="relabel", case="unchanged source", unit="rows/s", ours=again, against=against, theirs=first),
        compare(name="relabel", case="with the process's start", unit="rows/s", ours=again_process, against=against, theirs=first_process),
        alone(name="relabel", case="asked of the teacher again", unit="rows", figure=asked, n=runs),
    ]


def _labelled(folder: Path, *, labels: Path, generation: int, rows: int) -> tuple[float, int]:
    """(seconds, rows asked of the teacher) of one labelling in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.relabel", str(folder), str(labels), str(generation)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"generation {generation} failed:\n{ended.stderr}")
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["rows"] == rows
    print(f"generation {generation}: {found['seconds']:.3f} s, {found['asked']} rows asked", file=sys.stderr)
    return found["seconds"], found["asked"]


def label(folder: Path, labels: Path, generation: int) -> None:
    """Plan and label one generation, here; prints one JSON object."""
    from pipeline.config import LabellingSection, SourceSection, TeacherSection
    from pipeline.sources import SourceSpec
    from tests.kit.crews import LocalCrew
    from workers.labelling import Demand, Labelling

    began_s = time.perf_counter()
    labelling = Labelling(
        store_url=str(labels),
        source=SourceSpec(section=SourceSection(path="samples", input="x", kind="floats"), base=folder),
        teacher=TeacherSection(use="mlp:Teacher", workers_max=1, batch_rows=BATCH_ROWS),
        classes=NAMES,
        base=folder,
        section=LabellingSection(unit_rows=UNIT_ROWS, window_rows=16 * UNIT_ROWS),
        seed=1,
        generation=generation,
        holder="bench",
        open_crew=LocalCrew,
    )
    labelling.plan()
    outcome = labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())
    assert outcome.ended
    print(json.dumps({"seconds": time.perf_counter() - began_s, "asked": outcome.teacher_calls, "rows": outcome.rows_committed}))


if __name__ == "__main__":
    label(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
