"""overlap_source: labelling a file of which half the rows are known from another, against a file of new rows; and what looking costs.

Files of 256 floats a row, a perceptron of 1.3 M parameters, 100 classes: the teacher of `labelling`, one of it with one thread, and no
Ray: nothing goes on beside it, so that what is compared is the work. Each process labels one file, then a second of twice as many rows:
with each row of the first in it, at another place, or all new. Figures are of the second, from plan to the end of its generation. Where
nothing is known, labelling with and without `reuse` differ by the keys that are made, stored, indexed and looked up in vain.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.compare import Comparison, alone, compare
from tests.bench.labelling_peers import BATCH_ROWS, FEATURES, MLP, NAMES, UNIT_ROWS

TIMEOUT_S = 600
KEYED_ROWS, KNOWN_ROWS, TRIES = 20_000, 2_600_000, 5


def run(rows: int = 100_000, runs: int = 3) -> list[Comparison]:
    """Cases: what the teacher is asked, and how long it all takes, with half known; the same with nothing known; a key."""
    found: dict[str, list[dict[str, float]]] = {"half known": [], "all new": [], "all new, without reuse": []}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "overlap")
        write_files(folder, rows=rows)
        for _ in range(runs):
            for name, turns in found.items():
                turns.append(_labelled(folder, name))
    pairs = (
        ("half known: asked of the teacher", "asked", "rows", "half known", "all new"),
        ("half known: labelling", "seconds", "s", "half known", "all new"),
        ("half known: labelling", "cpu_s", "CPU s", "half known", "all new"),
        ("nothing known: labelling", "seconds", "s", "all new", "all new, without reuse"),
        ("nothing known: labelling", "cpu_s", "CPU s", "all new", "all new, without reuse"),
    )
    compared = [
        compare(
            name="overlap_source",
            case=case,
            unit=unit,
            ours=[turn[what] for turn in found[ours]],
            against=against,
            theirs=[turn[what] for turn in found[against]],
        )
        for case, what, unit, ours, against in pairs
    ]
    return [
        *compared,
        alone(name="overlap_source", case="key of 256 floats", unit="us", figure=_key_us(), n=TRIES),
        alone(name="overlap_source", case=f"look-up in vain among {KNOWN_ROWS:,} rows", unit="us", figure=_look_up_us(), n=TRIES),
    ]


def write_files(folder: Path, *, rows: int) -> None:
    """`half known` and `all new`: in each `first`, with half as many rows as `second`; and the teacher."""
    chance = np.random.default_rng(1)
    first, new = (chance.standard_normal((count, FEATURES), dtype=np.float32) for count in (rows // 2, rows))
    half_known = np.concatenate([first, new[: rows - len(first)]])[chance.permutation(rows)]
    for name, second in (("half known", half_known), ("all new", new)):
        (folder / name).mkdir(parents=True)
        for file, values in (("first", first), ("second", second)):
            column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), FEATURES)
            pq.write_table(pa.table({"x": column}), folder / name / f"{file}.parquet", row_group_size=25_000)
    (folder / "mlp.py").write_text(MLP)


def _labelled(folder: Path, name: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.overlap_source", str(folder), name]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=one_thread)
    if ended.returncode:
        raise RuntimeError(f"{name} failed:\n{ended.stderr}")
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    print(
        f"{name}: {found['seconds']:.2f} s, {found['cpu_s']:.2f} of CPU, {found['asked']} rows asked, {found['reused']} reused",
        file=sys.stderr,
    )
    return found


def label(folder: Path, name: str) -> None:
    """Label the first file, then the second, here; prints one JSON object."""
    from pipeline.config import LabellingSection, SourceSection, TeacherSection
    from pipeline.sources import SourceSpec
    from tests.kit.crews import LocalCrew
    from workers.labelling import Demand, Labelling

    samples, _, without = name.partition(", ")
    with tempfile.TemporaryDirectory(dir=folder) as labels:
        for generation, files in ((1, "first.parquet"), (2, "*.parquet")):
            began_s, cpu_began_s = time.perf_counter(), time.process_time()
            labelling = Labelling(
                store_url=labels,
                source=SourceSpec(section=SourceSection(path=f"{samples}/{files}", input="x", kind="floats"), base=folder),
                teacher=TeacherSection(use="mlp:Teacher", workers_max=1, batch_rows=BATCH_ROWS),
                classes=NAMES,
                base=folder,
                section=LabellingSection(unit_rows=UNIT_ROWS, window_rows=16 * UNIT_ROWS, reuse=not without),
                seed=1,
                generation=generation,
                holder="bench",
                open_crew=LocalCrew,
            )
            labelling.plan()
            outcome = labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())
            assert outcome.ended
            assert outcome.rows_quarantined == 0
    took = {"seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_began_s}
    print(json.dumps({**took, "asked": outcome.teacher_calls, "reused": outcome.rows_reused}))


def _key_us() -> float:
    """Microseconds a row."""
    from pipeline.labels.content import content_keys

    values = pa.array(np.random.default_rng(1).standard_normal(KEYED_ROWS * FEATURES, dtype=np.float32))
    inputs = pa.ListArray.from_arrays(pa.array(np.arange(KEYED_ROWS + 1, dtype=np.int32) * FEATURES), values)
    return _best_us(lambda: content_keys(inputs), KEYED_ROWS)


def _look_up_us() -> float:
    """Microseconds a key, in one table of the largest size; the keys of a unit at a time."""
    from pipeline.labels.known.table import Rows, Table, encode_table

    keys_N2 = np.random.default_rng(1).integers(1, 2**63, (KNOWN_ROWS + UNIT_ROWS, 2)).astype("<u8")
    row_N = np.arange(KNOWN_ROWS, dtype=np.uint32)
    table = Table(encode_table(Rows(keys_N2=keys_N2[:KNOWN_ROWS], commit_N=row_N // UNIT_ROWS, place_N=row_N % UNIT_ROWS)), key="bench")
    return _best_us(lambda: table.find(keys_N2[KNOWN_ROWS:]), UNIT_ROWS)


def _best_us(act: Callable[[], object], rows: int) -> float:
    took_s = []
    for _ in range(TRIES):
        began_s = time.perf_counter()
        act()
        took_s.append(time.perf_counter() - began_s)
    return min(took_s) / rows * 1e6


if __name__ == "__main__":
    label(Path(sys.argv[1]), sys.argv[2])
