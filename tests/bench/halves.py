"""Both halves of a run, each a process on a core of its own: what `overlap`, `first_step` and `many_students` measure.

The halves are the product's own: `Labelling` with a teacher in its thread, and `teach`, the body of every trainer. Ray is left out: its
start is no part of what is measured. A half imports what it needs and says that it is ready; from then on it waits to be told to go. What
trainers want is told through a folder, labels are followed through the log on disk, as ever. Both read the machine's one clock.

Rows of 256 floats, 100 classes. The teacher is a perceptron of 27 M parameters, a student one of as many as its width makes.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.board import TrainingProgress, TrainingState

FEATURES, CLASSES, BATCH = 256, 100, 64
NAMES = tuple(f"class{number:03d}" for number in range(CLASSES))
TIMEOUT_S = 1800.0
TEACHER = '''"""A perceptron of 27 M parameters, as a user would bring it."""

import torch


class Teacher:
    def __init__(self):
        torch.manual_seed(1)
        self.classes = [f"class{number:03d}" for number in range(100)]
        self.fingerprint = "perceptron"
        sizes = [256, 3600, 3600, 3600]
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        self.model = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 100)).eval()

    def log_probs(self, inputs):
        samples = torch.from_numpy(inputs.flatten().to_numpy(zero_copy_only=False).reshape(len(inputs), -1))
        with torch.inference_mode():
            return torch.log_softmax(self.model(samples), 1).numpy()
'''


def write_samples(folder: Path, *, rows: int) -> None:
    """The rows that are to be labelled, and the teacher."""
    values = pa.array(np.random.default_rng(1).standard_normal(rows * FEATURES, dtype=np.float32))
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(values, FEATURES)})
    pq.write_table(table, folder / "samples.parquet", row_group_size=8192)
    (folder / "perceptron.py").write_text(TEACHER)


class FolderBoard:
    """A board in a folder, a file for each student, for processes that have no Ray."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def report(self, student: str, progress: TrainingProgress) -> bool:
        coming = self._folder / f".{student}"
        coming.write_text(json.dumps(asdict(progress)))
        coming.replace(self._folder / student)
        return True

    def snapshot(self) -> dict[str, TrainingProgress]:
        found = {path.name: json.loads(path.read_text()) for path in self._folder.glob("[!.]*")}
        return {
            name: TrainingProgress(**{**values, "state": TrainingState(values["state"]), "corrupt": tuple(values["corrupt"])})
            for name, values in found.items()
        }


class Halves:
    """One log of labels, and the processes that make it and learn from it. A context manager: what still runs is killed at its end."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.board = FolderBoard(folder / f"board-{name}")
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Halves":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    @property
    def labels(self) -> Path:
        return self._folder / f"labels-{self._name}"

    def start(self, half: str, *, core: int, **options: Any) -> "Half":
        """`label` or `train`, ready to go, on the core of that place among those there are."""
        cores = sorted(os.sched_getaffinity(0))
        asked = {
            "folder": str(self._folder),
            "labels": str(self.labels),
            "board": str(self._folder / f"board-{self._name}"),
            "core": cores[core % len(cores)],
        }
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.halves", half, json.dumps(asked | options)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self._processes.append(process)
        return Half(half, process)


class Half:
    """A process that is ready."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name, self._process = name, process
        self._next()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> Mapping[str, float]:
        """What it found: `began_s`, `ended_s`, `cpu_s` and its own figures."""
        found: Mapping[str, float] = json.loads(self._next())
        self._process.wait(TIMEOUT_S)
        print(f"{self._name}: {found['ended_s'] - found['began_s']:.2f} s, {found['cpu_s']:.2f} of CPU", file=sys.stderr)
        return found

    def _next(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the half that should {self._name} ended early, with {self._process.wait()}; above is what it said")
        return line


def wall_s(*halves: Mapping[str, float]) -> float:
    """From when the first of them was told to go until the last had ended."""
    return max(half["ended_s"] for half in halves) - min(half["began_s"] for half in halves)


def _half(name: str, options: Mapping[str, Any]) -> None:
    os.sched_setaffinity(0, {options["core"]})
    import resource
    import time

    act = {"label": _label, "train": _train}[name](Path(options["folder"]), options, FolderBoard(Path(options["board"])))
    print("ready", flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began_s = time.monotonic()
    found = act()
    ended_s, after = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"began_s": began_s, "ended_s": ended_s, "cpu_s": cpu_s, **found}), flush=True)


def _label(folder: Path, options: Mapping[str, Any], board: FolderBoard) -> Callable[[], dict[str, float]]:
    import torch

    from pipeline.config import LabellingSection, SourceSection, TeacherSection
    from pipeline.sources import SourceSpec
    from tests.kit.crews import LocalCrew
    from workers.driver.learning import demand_of
    from workers.labelling import Labelling

    torch.set_num_threads(1)
    labelling = Labelling(
        store_url=options["labels"],
        source=SourceSpec(section=SourceSection(path="samples.parquet", input="x", kind="floats"), base=folder),
        teacher=TeacherSection(use="perceptron:Teacher", workers_max=1, batch_rows=128),
        classes=NAMES,
        base=folder,
        section=LabellingSection(free_disk_bytes=0),
        seed=1,
        generation=1,
        holder="bench",
        open_crew=LocalCrew,
    )
    labelling.plan()

    def act() -> dict[str, float]:
        outcome = labelling.run(demand=lambda: demand_of(board.snapshot()), progress=lambda _: None, stop=threading.Event())
        assert outcome.ended
        assert outcome.first_commit_unix_s is not None
        return {"asked": outcome.teacher_calls, "first_commit_unix_s": outcome.first_commit_unix_s}

    return act


def _train(folder: Path, options: Mapping[str, Any], board: FolderBoard) -> Callable[[], dict[str, float]]:
    import time

    import torch

    from pipeline.config import StudentSection
    from workers.teaching import TrainingSpec, teach

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports a thousand modules, which a trainer does before it waits for labels
    name = options["student"]
    section = StudentSection(
        use="mlp",
        options={"features": FEATURES, "width": options["width"], "layers": 3},
        batch=BATCH,
        steps=options["steps"],
        learning_rate=1e-4,
    )
    storage = Path(options["labels"] + "-students")
    spec = TrainingSpec(
        name=name,
        student=section,
        source="",
        classes=NAMES,
        kind="floats",
        store_url=options["labels"],
        generation=1,
        seed=1,
        base=folder,
        storage=storage,
        warm_start=None,
        mixed_teachers=False,
        out=storage / f"{name}.pt",
    )

    def act() -> dict[str, float]:
        trained = teach(spec, board=board, clock=time.monotonic, wall_clock=time.time, sleep=time.sleep)
        assert trained is not None
        return {"rows": trained.rows, "first_step_unix_s": trained.first_step_unix_s, "seconds": trained.seconds}

    return act


if __name__ == "__main__":
    _half(sys.argv[1], json.loads(sys.argv[2]))
