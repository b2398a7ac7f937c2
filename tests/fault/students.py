"""SIGKILL the workers of a trainer, again and again, resize it each time, and hold what it read and learnt against a clean run.

    python -m tests.fault.students --kills 50 --seed 1

A log is recorded once. Then its records are released again, one after the other, into a new store, as if a teacher were at work, while a
trainer of plain processes (no Ray; gloo over a file) learns from it. Only trainers are killed: at a drawn step all of its workers at
once, or one, after which the others, who wait for it, are ended as Ray Train ends them. The next start has another number of workers, in
turn 4, 2, 3, 1, and goes on from the newest checkpoint. Every batch that any start read must be the one that a clean run read there; at
the end all were read, and the loss is that of the clean run: to the bit where every start has one worker, within 1e-5 where they differ.
Half of the kills are for either case. Prints a line a case, and with --json one object; exit code 1 if anything differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline.config import StudentSection
from pipeline.labels.entries import record_key
from pipeline.labels.order import Cursor
from pipeline.labels.prefetch import Found
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.store import LocalStore
from pipeline.students.checkpoint import load_trained
from tests.kit.labelling import Bench, MemorySource
from tests.kit.training import training_spec
from workers.board import TrainingProgress
from workers.teaching import TrainingSpec, teach

ROWS, BATCH, EPOCHS = 600, 12, 6
"""A live pass and five replays."""
STEPS = EPOCHS * ROWS // BATCH
WORLDS = (4, 2, 3, 1)
STARVED_S = 0.05
LOSS_WITHIN = 1e-5
DEADLINE_S = 120.0

Batches = dict[tuple[int, int], list[str]]
"""(epoch, position) -> ids of the whole batch."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one way to kill came to."""

    case: str
    kills: int
    starts: int
    batches: int
    differing: int
    """Batches that are not those of the clean run, or were never read."""
    loss: float
    loss_difference: float

    @property
    def right(self) -> bool:
        return self.differing == 0 and self.loss_difference <= (0 if self.case == "1 worker" else LOSS_WITHIN)

    def __str__(self) -> str:
        return (
            f"{self.case}: {self.kills} kills, {self.starts} starts, {self.batches} batches, {self.differing} differ from the clean run; "
            f"final loss {self.loss:.6f}, difference {self.loss_difference:.2g}"
        )


def record(folder: Path) -> None:
    """A log of one generation in many small windows."""
    source = MemorySource({name: [f"{name} {number} {'spam' * (number % 3)}" for number in range(ROWS // 3)] for name in "abc"})
    Bench(LocalStore(folder / "recorded"), source, unit_rows=5).run(1)


def spec_in(folder: Path) -> TrainingSpec:
    options = {"max_bytes": 32, "width": 8, "embedding": 4}
    student = StudentSection(options=options, batch=BATCH, steps=STEPS, warmup_steps=10, learning_rate=0.01, checkpoint_every_steps=7)
    return training_spec(folder, student)


class Heard:
    """A reader that writes down each batch before it hands it out."""

    def __init__(self, reader: LabelReader, path: Path) -> None:
        self._reader, self._path = reader, path

    def start(self) -> Cursor:
        return self._reader.start()

    def read(self, cursor: Cursor) -> Found:
        found = self._reader.read(cursor)
        if isinstance(found, LabelBatch):
            with self._path.open("a") as file:
                file.write(json.dumps([cursor.epoch, cursor.pos, found.sample_ids]) + "\n")
        return found


class Board:
    """Nobody looks."""

    def report(self, student: str, progress: TrainingProgress) -> bool:
        return True


def work(folder: Path, start: int, rank: int, world: int) -> None:
    """One worker, to the end of the training."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting-{start}", rank=rank, world_size=world)
    spec = spec_in(folder)
    reader = LabelReader(LocalStore(folder / "labels"), generation=1, batch=BATCH, seed=spec.seed, rank=rank, world=world)
    teach(
        spec,
        board=Board(),
        clock=time.monotonic,
        wall_clock=time.time,
        sleep=time.sleep,
        rank=rank,
        world=world,
        reduce=(lambda flat: torch.distributed.all_reduce(flat)) if world > 1 else None,
        reader=Heard(reader, folder / f"heard-{start}-{rank}"),
    )
    if world > 1:
        torch.distributed.destroy_process_group()


class Release:
    """Brings the recorded log into the trainer's store, a record at a time."""

    def __init__(self, folder: Path) -> None:
        self._from, self._to, self._next = folder.parent / "recorded", folder / "labels", 0
        shutil.copytree(self._from / "shards", self._to / "shards")
        (self._to / "log").mkdir()

    def one_more(self) -> bool:
        """False if there is none."""
        recorded = self._from / record_key(self._next)
        if not recorded.exists():
            return False
        shutil.copy(recorded, self._to / "log" / ".coming")
        (self._to / "log" / ".coming").rename(self._to / record_key(self._next))
        self._next += 1
        return True


def train(folder: Path, *, worlds: Sequence[int], chance: random.Random | None) -> int:
    """Train to the end; killed after each start but the last at a drawn step. The number of starts."""
    folder.mkdir()
    release = Release(folder)
    release.one_more()
    for start, world in enumerate(worlds):
        command = [sys.executable, "-m", "tests.fault.students", "--work", str(folder), str(start)]
        workers = [subprocess.Popen([*command, str(rank), str(world)]) for rank in range(world)]
        last = start == len(worlds) - 1
        more = chance.randint(1, 2 * STEPS // len(worlds)) if chance and not last else None
        _watch(folder, start, workers, release, more)
        if not last and chance:
            victims = workers if chance.random() < 0.5 else [chance.choice(workers)]
            for worker in (*victims, *workers):
                worker.send_signal(signal.SIGKILL)
        for worker in workers:
            worker.wait(DEADLINE_S)
        assert not last or all(worker.returncode == 0 for worker in workers), "a trainer failed that nobody killed"
    return len(worlds)


def _watch(folder: Path, start: int, workers: Sequence["subprocess.Popen[bytes]"], release: Release, more: int | None) -> None:
    """Until it has taken so many steps, or ends. A record is released whenever it has waited a moment for one."""
    until_s = time.monotonic() + DEADLINE_S
    heard, steps, moved_s = folder / f"heard-{start}-0", 0, time.monotonic()
    while all(worker.poll() is None for worker in workers):
        now = len(heard.read_bytes().splitlines()) if heard.exists() else 0
        if now > steps:
            steps, moved_s = now, time.monotonic()
        elif time.monotonic() - moved_s > STARVED_S:
            release.one_more()
            moved_s = time.monotonic()
        if more is not None and steps >= more:
            return
        assert time.monotonic() < until_s, f"no end of start {start}"
        time.sleep(0.005)


def read_in(folder: Path, worlds: Sequence[int]) -> list[Batches]:
    """What each start read: positions that all of its workers had come to, without those that were read ahead beyond the last step."""
    found = []
    for start, world in enumerate(worlds):
        ranks = []
        for rank in range(world):
            path = folder / f"heard-{start}-{rank}"
            lines = path.read_text().splitlines() if path.exists() else []
            ranks.append({(epoch, pos): ids for epoch, pos, ids in map(json.loads, lines) if epoch < EPOCHS})
        common = set(ranks[0]).intersection(*ranks[1:])
        found.append({place: [sample for rank in ranks for sample in rank[place]] for place in common})
    return found


def compare(name: str, folder: Path, clean: Path, worlds: Sequence[int]) -> Case:
    expected, found = read_in(clean, [1])[0], read_in(folder, worlds)
    wrong = sum(ids != expected[place] for start in found for place, ids in start.items())
    missing = set(expected) - {place for start in found for place in start}
    losses = []
    for where in (folder, clean):
        trained = load_trained(where / "small.pt")
        assert trained is not None
        losses.append(trained.history[-1][1])
    return Case(
        case=name,
        kills=len(worlds) - 1,
        starts=len(worlds),
        batches=len(expected),
        differing=wrong + len(missing),
        loss=losses[0],
        loss_difference=abs(losses[0] - losses[1]),
    )


def run(home: Path, *, kills: int, seed: int) -> list[Case]:
    """Both ways, half of the kills each."""
    chance = random.Random(seed)
    record(home)
    train(home / "clean", worlds=[1], chance=None)
    several = [WORLDS[start % len(WORLDS)] for start in range(kills - kills // 2 + 1)]
    ways = {"1 worker": [1] * (kills // 2 + 1), "4, 2, 3, 1 workers": several}
    cases = []
    for number, (name, worlds) in enumerate(ways.items()):
        train(home / f"killed-{number}", worlds=worlds, chance=chance)
        cases.append(compare(name, home / f"killed-{number}", home / "clean", worlds))
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill and resize trainers, and hold them against a clean run.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        folder, *numbers = options.work
        work(Path(folder), *map(int, numbers))
        return 0
    with tempfile.TemporaryDirectory() as home:
        cases = run(Path(home), kills=options.kills, seed=options.seed)
    for case in cases:
        print(case)
    if options.json:
        print(json.dumps([asdict(case) for case in cases]))
    return 0 if all(case.right for case in cases) else 1


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    sys.exit(main())
