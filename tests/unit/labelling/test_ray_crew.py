"""Teachers as Ray actors, on a Ray of this test's own: what they ask the cluster for, and a replica that answers otherwise."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.labels.log import LogReader
from pipeline.labels.rowspace import planned
from pipeline.labels.shard import read_shard
from pipeline.labels.store import open_store
from pipeline.sources import SourceSpec
from workers.labelling import Demand, Labelling
from workers.labelling.crew import Died, Event, Finished, Ready
from workers.labelling.messages import Assignment, Labelled, LabellerSpec
from workers.labelling.ray_crew import RayCrew
from workers.local_ray import start_local_ray

CLASSES = ("a", "b")
TEACHER = """
import os
import threading
import numpy as np

class Teacher:
    classes = ("a", "b")
    fingerprint = "one"

    def __init__(self, folder):
        self.number = 1
        while True:  # each replica takes the next number
            try:
                os.close(os.open(f"{folder}/replica-{self.number}", os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                self.number += 1

    def log_probs(self, inputs):
        share = 0.9 if self.number == 2 else 0.2
        return np.log(np.tile(np.array([[share, 1 - share]], dtype=np.float32), (len(inputs), 1)))

class Hangs(Teacher):
    # in its first process, for ever

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = folder

    def log_probs(self, inputs):
        if self.number == 1:
            open(f"{self.folder}/hanging", "w").close()
            threading.Event().wait()
        return super().log_probs(inputs)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        start_local_ray(num_cpus=2, resources={"lab": 1.0})
        yield
        ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(TEACHER)
    (tmp_path / "replicas").mkdir()
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps({"text": f"text {row}"}) + "\n" for row in range(120)))
    return tmp_path


def teacher_of(folder: Path, **options) -> TeacherSection:
    return TeacherSection(use="mine:Teacher", options={"folder": str(folder / "replicas")}, **options)


def source_of(folder: Path) -> SourceSpec:
    return SourceSpec(section=SourceSection(path="samples.jsonl"), base=folder)


def test_a_teacher_that_finds_no_place_says_what_it_asked_for_and_what_there_is(cluster, folder):
    now_s = [0.0]
    teacher = teacher_of(folder, cpus=0.25, resources={"lab": 0.5, "tpu": 1})
    spec = LabellerSpec(store_url=str(folder / "labels"), source=source_of(folder), teacher=teacher, classes=CLASSES, base=folder)
    crew = RayCrew(spec, clock=lambda: now_s[0])
    try:
        crew.start()
        assert crew.notice() == ""
        now_s[0] = 31.0
        assert crew.notice() == (
            "1 teacher(s) not ready after 31 s: each asked for CPU 0.25, lab 0.5, tpu 1; "
            "the cluster has CPU 2 (2 free), lab 1 (1 free), tpu 0 (0 free)"
        )
    finally:
        crew.close()


def test_teachers_share_cpus_and_resources_by_fractions(cluster, folder):
    teacher = teacher_of(folder, cpus=0.25, resources={"lab": 0.5})
    spec = LabellerSpec(store_url=str(folder / "labels"), source=source_of(folder), teacher=teacher, classes=CLASSES, base=folder)
    crew = RayCrew(spec)
    try:
        started, ready, until_s = {crew.start() for _ in range(3)}, set[str](), time.monotonic() + 60
        while len(ready) < 2 and time.monotonic() < until_s:
            ready |= {event.worker for event in crew.poll(0.5) if isinstance(event, Ready)}
        assert len(ready) == 2
        assert not crew.poll(0.2), "there is no place for the third"
        crew.stop(ready.pop())
        while len(ready) < 2 and time.monotonic() < until_s:
            ready |= {event.worker for event in crew.poll(0.5) if isinstance(event, Ready)}
        assert len(ready) == 2
        assert ready < started
    finally:
        crew.close()


def test_an_actor_that_hangs_is_killed_in_the_middle_of_its_call_and_its_next_process_does_the_work(cluster, folder):
    teacher = TeacherSection(use="mine:Hangs", options={"folder": str(folder / "replicas")}, cpus=0.25)
    spec = LabellerSpec(store_url=str(folder / "labels"), source=source_of(folder), teacher=teacher, classes=CLASSES, base=folder)
    (part,) = source_of(folder).open().parts()
    (plan,) = planned([(part.identity, part.name, part.rows)], known=[], unit_rows=10)
    assignment = Assignment(lease=1, key="shards/x", plan=plan, start=0, stop=10)
    crew, until_s = RayCrew(spec), time.monotonic() + 120

    def next_event() -> Event:
        while not (events := crew.poll(0.5)):
            assert time.monotonic() < until_s, "nothing happened"
        (event,) = events
        return event

    try:
        worker = crew.start()
        assert isinstance(next_event(), Ready)
        crew.submit(worker, assignment)
        while not (folder / "replicas" / "hanging").exists():
            assert not crew.poll(0.1), "it hangs, it does not answer"
            assert time.monotonic() < until_s, "the teacher was not asked"
        crew.restart(worker)
        assert isinstance(died := next_event(), Died)
        assert died.worker == worker
        assert isinstance(next_event(), Ready)
        assert not (folder / "labels" / "shards" / "x").exists(), "the call that was killed is not repeated"
        crew.submit(worker, assignment)
        assert isinstance(done := next_event(), Finished)
        assert isinstance(done.outcome, Labelled)
        assert done.outcome.teacher_rows == 10
    finally:
        crew.close()


def test_an_actor_that_answers_otherwise_is_ended_and_replaced(cluster, folder):
    labelling = Labelling(
        store_url=str(folder / "labels"),
        source=source_of(folder),
        teacher=teacher_of(folder, cpus=0.25, workers_min=3, workers_max=3),
        classes=CLASSES,
        base=folder,
        section=LabellingSection(unit_rows=2, window_rows=16),
        seed=1,
        generation=1,
        holder="test",
    )
    labelling.plan()

    def demand() -> Demand:
        """The lead is used up until a fourth replica has come in the place of one that was taken out."""
        fourth = (folder / "replicas" / "replica-4").exists()
        return Demand() if fourth else Demand(cursors={"student": -(10**9)})

    outcome = labelling.run(demand=demand, progress=lambda _: None, stop=threading.Event())
    assert outcome.rows_committed == 120
    assert outcome.teachers_taken_out in (1, 2), "2 if the bad one was the first to answer"
    assert "answered otherwise" in outcome.says
    store = open_store(str(folder / "labels"))
    state = LogReader(store).refresh()
    shares = [read_shard(store, commit.shard).log_probs()[:, 0] for commit in state.commits]
    np.testing.assert_allclose(np.exp(np.concatenate(shares)), 0.2, atol=1e-3)
