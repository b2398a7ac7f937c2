"""Committed shards that rot on the disk while a student trains on them: the run mends them, and the student never knows.

Real processes throughout: `kdpipe run digits` with its teachers and its trainer on Ray.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.labels.log import LogReader
from pipeline.labels.reader import EndOfEpoch, LabelBatch, LabelReader
from pipeline.labels.store import LocalStore
from pipeline.labels.verify import verify
from pipeline.students.checkpoint import load_weights
from tests.kit.runs import BackgroundRun, read, stage_of
from workers.driver.folder import RunFolder
from workers.driver.records import section_of, student_files
from workers.driver.request import RunRequest
from workers.teaching import TrainingSpec, teach

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

STEPS, FLIP_AT_STEP = 4000, 100
EPOCHS_COMPARED = 3


def step_of(folder: Path) -> int:
    """The student's, as the driver shows it; 0 outside of training."""
    gauges = (read(folder / "status.json") or {}).get("gauges", [])
    return next((gauge["done"] for gauge in gauges if gauge["name"] == "small"), 0)


def order_of(folder: Path, spec: TrainingSpec) -> list[tuple[int, list[str], bytes, bytes]]:
    """Position, ids, labels and weights of every batch of the first epochs, as a student of that spec reads them."""
    reader = LabelReader(LocalStore(folder / "labels"), generation=1, batch=spec.student.batch, seed=spec.seed)
    cursor, seen = reader.start(), list[tuple[int, list[str], bytes, bytes]]()
    while cursor.epoch < EPOCHS_COMPARED:
        got = reader.read(cursor)
        if isinstance(got, EndOfEpoch):
            cursor = got.next
            continue
        assert isinstance(got, LabelBatch), "the generation has ended"
        seen.append((cursor.pos, got.sample_ids, got.log_probs_BK.tobytes(), got.weight_B.tobytes()))
        cursor = got.cursor_after
    return seen


def flip_a_bit(path: Path) -> None:
    """As a disk would: who has the old bytes mapped keeps them, who looks again finds others."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    rotten = path.with_name(".rotten")
    rotten.write_bytes(data)
    rotten.replace(path)


def spec_in(folder: Path, elsewhere: Path) -> TrainingSpec:
    """The student's training in generation 1, to be done anew elsewhere."""
    request, run_folder = RunRequest.again(RunFolder(folder)), RunFolder(folder)
    return TrainingSpec(
        name="small",
        student=section_of(run_folder, 1, "small"),
        source="",
        classes=request.run.classes,
        kind=request.run.stream.kind,
        store_url=str(folder / "labels"),
        generation=1,
        seed=request.run.seed,
        mixed_teachers=False,
        base=request.base,
        storage=elsewhere,
        warm_start=None,
        out=elsewhere / "weights.pt",
    )


class _Deaf:
    def report(self, student: str, progress: object) -> bool:
        return True


def trained_undisturbed(spec: TrainingSpec) -> Any:
    assert teach(spec, board=_Deaf(), clock=time.monotonic, wall_clock=time.time, sleep=time.sleep) is not None
    return load_weights(spec.out)


def test_three_shards_that_rot_under_a_training_student_change_nothing_it_sees(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits"
    store = LocalStore(folder / "labels")
    with BackgroundRun("digits", "--set", f"students.small.steps={STEPS}", cwd=tmp_path, folder=folder) as run:
        run.wait_until(lambda: step_of(folder) >= FLIP_AT_STEP and bool(LogReader(store).refresh().ends), "training after the last label")
        spec = spec_in(folder, tmp_path / "alone")
        before = order_of(folder, spec)
        rotten = [commit.shard.key for commit in LogReader(store).refresh().commits[:3]]
        for key in rotten:
            flip_a_bit(store.root / key)
        assert stage_of(folder) == "generation 1: label and train"
        assert step_of(folder) < STEPS, "the rot was to come in the middle of the training"
        run.wait_until(lambda: len(LogReader(store).refresh().repairs) == 3, "three repairs")
        assert run.process.wait(timeout=900) == 0, run.output
    assert len(rotten) == 3
    state = LogReader(store).refresh()
    assert sorted(state.repairs) == sorted(read(folder / "generations" / "000001" / "labelling.json")["repaired"]) == sorted(rotten)
    assert verify(store).sound
    assert order_of(folder, spec) == before, "the same ids, labels and weights at the same positions"
    learnt = load_weights(student_files(RunFolder(folder), 1, "small").weights)
    undisturbed = trained_undisturbed(spec)
    assert learnt.keys() == undisturbed.keys()
    for name, weights in undisturbed.items():
        assert learnt[name].equal(weights), f"{name}: the student saw something else than the log has"
