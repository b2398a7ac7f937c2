"""Labelling while its machines fail: a whole Ray node dies under its teachers, and shards rot while students could be reading them."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.labels.log import LogReader
from pipeline.labels.reader import LabelReader
from pipeline.labels.store import LocalStore
from pipeline.labels.verify import verify
from pipeline.sources import SourceSpec
from tests.kit.labelling import read_epoch
from tests.kit.samples import write_jsonl
from workers.labelling import Demand, Labelling, LabellingProgress

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

ROWS = 600
TEACHER = """
import time

def patient(inputs):
    time.sleep(0.05)
    return [[0.9, 0.1] if len(text) % 2 else [0.2, 0.8] for text in inputs]
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def labelling_in(folder: Path, **teacher: object) -> Labelling:
    (folder / "patient_teacher.py").write_text(TEACHER)
    write_jsonl(folder / "mail.jsonl", {"text": [f"mail {number}" for number in range(ROWS)]})
    options = {"use": "patient_teacher:patient", "cpus": 0.1, "batch_rows": 8, "workers_min": 2, "workers_max": 2} | teacher
    return Labelling(
        store_url=str(folder / "labels"),
        source=SourceSpec(section=SourceSection(path="mail.jsonl"), base=folder),
        teacher=TeacherSection.model_validate(options),
        classes=("ham", "spam"),
        base=folder,
        section=LabellingSection(unit_rows=16, unit_rows_max=16, window_rows=64, free_disk_bytes=0),
        seed=1,
        generation=1,
        holder="test",
    )


def live_pass(folder: Path) -> list[str]:
    reader = LabelReader(LocalStore(folder / "labels"), generation=1, batch=32, seed=1)
    return read_epoch(reader, reader.start())[0]


def test_a_node_that_dies_under_its_teachers_costs_nothing_but_time(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, resources={"spot": 2})
    killed = threading.Event()

    def progress(now: LabellingProgress) -> None:
        if now.rows_committed >= 100 and not killed.is_set():
            killed.set()
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1, resources={"spot": 2})

    labelling = labelling_in(tmp_path, resources={"spot": 1.0})
    labelling.plan()
    outcome = labelling.run(demand=Demand, progress=progress, stop=threading.Event())
    assert killed.is_set()
    assert (outcome.ended, outcome.rows_committed, outcome.rows_quarantined) == (True, ROWS, 0)
    ids = live_pass(tmp_path)
    assert len(ids) == len(set(ids)) == ROWS
    assert verify(LocalStore(tmp_path / "labels")).sound


def test_three_shards_that_rot_while_labelling_goes_on_come_back_at_the_same_places(cluster: Cluster, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "labels")
    rotten: list[str] = []
    before: list[str] = []

    def progress(now: LabellingProgress) -> None:
        if now.rows_committed >= 200 and not rotten:
            state = LogReader(store).refresh()
            reader = LabelReader(store, generation=1, batch=1, seed=1)
            before.extend(read_epoch(reader, reader.start())[0])
            rotten.extend(commit.shard.key for commit in state.commits[:3])
            for number, key in enumerate(rotten):
                path = store.root / key
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1 << number
                path.write_bytes(data)

    labelling = labelling_in(tmp_path)
    labelling.plan()
    outcome = labelling.run(demand=lambda: Demand(corrupt=frozenset(rotten)), progress=progress, stop=threading.Event())
    assert sorted(outcome.repaired) == sorted(rotten)
    assert len(rotten) == 3
    assert verify(store).sound
    reader = LabelReader(store, generation=1, batch=1, seed=1)
    after = read_epoch(reader, reader.start())[0]
    assert after[: len(before)] == before, "what a student has read stays at its place"
    assert len(after) == len(set(after)) == ROWS
