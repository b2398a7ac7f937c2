"""Labelling with real Ray actors, a real folder, the user's own teacher and source files."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.labels.log import LogReader
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.store import Store, open_store
from pipeline.labels.verify import verify
from pipeline.sources import SourceSpec
from pipeline.teachers import TeacherClassesError
from pipeline.teachers.teacher import TeacherLoadError
from tests.kit.labelling import read_epoch
from workers.labelling import Demand, Labelling, LabellingOutcome, LabellingProgress
from workers.labelling.faults import TeacherChangedError
from workers.labelling.messages import LabellerSpec
from workers.labelling.ray_crew import RayCrew
from workers.local_ray import start_local_ray

pytestmark = pytest.mark.timeout(240)

TEACHER = '''
import os
from pathlib import Path

import numpy as np


class Spam:
    """Says spam for texts of odd length; `poison` is too much for it, and the first `last words` it sees end its process."""

    def __init__(self, classes=("ham", "spam"), note=None, version=1):
        self.classes = tuple(classes)
        self.fingerprint = f"spam-{version}"
        self.note = Path(note) if note else None
        if self.note:
            Path(f"{note}.{os.getpid()}").touch()

    def log_probs(self, inputs):
        texts = inputs.to_pylist()
        if self.note and not self.note.exists() and any("last words" in text for text in texts):
            self.note.touch()
            os.kill(os.getpid(), 9)
        if any("poison" in text for text in texts):
            raise RuntimeError("cannot digest")
        share = np.array([0.9 if len(text) % 2 else 0.1 for text in texts], dtype=np.float32)
        return np.log(np.stack([1 - share, share], axis=1))


def refuses(**options):
    raise OSError("weights are on another disk")
'''


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    start_local_ray(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path, _cluster: None) -> Path:
    (tmp_path / "spam_teacher.py").write_text(TEACHER)
    rows = [{"text": f"mail number {number}" + "!" * (number % 3)} for number in range(300)]
    rows[17]["text"] = "poison"
    rows[40]["text"] = "last words"
    (tmp_path / "mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{not json\n")
    return tmp_path


def labelling_of(
    folder: Path, *, generation: int = 1, use: str = "spam_teacher:Spam", workers_max: int = 1, **options: object
) -> Labelling:
    return Labelling(
        store_url=str(folder / "labels"),
        source=SourceSpec(section=SourceSection(path="mail.jsonl"), base=folder),
        teacher=TeacherSection(use=use, options=options, cpus=0.5, workers_min=1, workers_max=workers_max),
        classes=("ham", "spam"),
        base=folder,
        section=LabellingSection(unit_rows=16, window_rows=64, free_disk_bytes=0),
        seed=1,
        generation=generation,
        holder="test",
    )


def run(labelling: Labelling, *, demand: Demand | None = None, seen: list[LabellingProgress] | None = None) -> LabellingOutcome:
    wanted = demand or Demand()
    labelling.plan()
    return labelling.run(demand=lambda: wanted, progress=(seen if seen is not None else []).append, stop=threading.Event())


def sample_ids(folder: Path) -> list[str]:
    reader = LabelReader(_store(folder), generation=1, batch=32, seed=1)
    return read_epoch(reader, reader.start())[0]


def test_actors_label_every_row_once_and_a_rerun_asks_nothing(folder):
    outcome = run(labelling_of(folder, workers_max=2))
    assert (outcome.ended, outcome.rows_planned, outcome.rows_committed, outcome.rows_quarantined) == (True, 301, 299, 2)
    assert len(set(sample_ids(folder))) == 299
    reasons = {bad.reason for bad in LogReader(_store(folder)).refresh().quarantined}
    assert "the teacher failed: RuntimeError: cannot digest" in reasons
    assert verify(_store(folder)).sound
    reader = LabelReader(_store(folder), generation=1, batch=299, seed=1)
    batch = reader.read(reader.start())
    assert isinstance(batch, LabelBatch)
    assert all((p[1] > p[0]) == bool(len(text) % 2) for text, p in zip(batch.inputs.to_pylist(), batch.log_probs_BK, strict=True))
    assert batch.teacher == "spam-1"
    again = run(labelling_of(folder))
    assert (again.ended, again.teacher_calls, again.actors) == (True, 0, 0)
    with pytest.raises(TeacherChangedError, match=r"spam-2; expected spam-1"):
        run(labelling_of(folder, generation=2, version=2), demand=Demand(corrupt=_break_a_shard(folder)))
    repaired = run(labelling_of(folder), demand=Demand(corrupt=frozenset(bad.shard for bad in verify(_store(folder)).bad)))
    assert len(repaired.repaired) == 1
    assert verify(_store(folder)).sound
    assert len(set(sample_ids(folder))) == 299


def test_an_actor_that_is_killed_comes_back_and_nothing_is_lost_or_doubled(folder):
    outcome = run(labelling_of(folder, note=str(folder / "note")))
    assert (folder / "note").exists()
    assert (outcome.ended, outcome.rows_committed, outcome.rows_quarantined) == (True, 299, 2)
    assert len(list(folder.glob("note.*"))) == 2, "the actor was started anew, once"
    assert len(sample_ids(folder)) == len(set(sample_ids(folder))) == 299


@pytest.mark.usefixtures("_cluster")
def test_a_request_that_the_cluster_cannot_place_says_what_was_asked_and_what_is_there():
    clock = iter([0.0, *[100.0] * 20])
    section = TeacherSection(use="spam_teacher:Spam", cpus=64)
    spec = SourceSpec(section=SourceSection(path="mail.jsonl"), base=Path())
    crew = RayCrew(
        LabellerSpec(store_url="", source=spec, teacher=section, classes=("ham", "spam"), base=Path()), clock=lambda: next(clock)
    )
    crew.start()
    try:
        assert crew.poll(0.01) == []
        expected = r"1 teacher\(s\) not ready after 100 s: each asked for CPU 64; the cluster has CPU 2 \([\d.]+ free\)"
        assert re.fullmatch(expected, crew.notice())
    finally:
        crew.close()


def test_a_teacher_with_other_classes_is_refused_with_its_own_error(folder):
    with pytest.raises(TeacherClassesError, match="knows 3 classes"):
        run(labelling_of(folder, classes=["a", "b", "c"]))


def test_a_teacher_that_does_not_load_ends_the_run_with_its_reason(folder):
    with pytest.raises(TeacherLoadError, match=r"OSError: weights are on another disk \(spam_teacher.py line \d+\)"):
        run(labelling_of(folder, use="spam_teacher:refuses"))


def test_stop_ends_promptly_and_leaves_no_actor(folder):
    stop = threading.Event()
    began_s = time.monotonic()
    labelling = labelling_of(folder)
    labelling.plan()
    labelling.run(demand=Demand, progress=lambda now: stop.set(), stop=stop)
    assert time.monotonic() - began_s < 30
    deadline_s = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline_s, "an actor still holds its CPU"
        time.sleep(0.1)


def _store(folder: Path) -> Store:
    return open_store(str(folder / "labels"))


def _break_a_shard(folder: Path) -> frozenset[str]:
    commit = LogReader(_store(folder)).refresh().commits[2]
    path = folder / "labels" / commit.shard.key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    return frozenset([commit.shard.key])
