"""The labels as a PyTorch data set: the order of kdpipe's own trainers, with any number of ranks, from any point on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pipeline.config import SourceSection
from pipeline.errors import ConfigError
from pipeline.labels.reader import CursorForeignError, LabelReader
from pipeline.labels.store import LocalStore
from pipeline.labels.windows import MixedTeachersError
from tests.kit.labelling import Bench, MemorySource, expected_log_probs, read_epoch
from workers.dataset import LabelDataset, NoLabelsThereError

ROWS, BATCH = 50, 8
SCRIPT = """
import json, sys
import torch
from workers.dataset import LabelDataset

torch.distributed.init_process_group("gloo")
read = [batch["sample_id"] for batch in LabelDataset(sys.argv[1], batch=8, seed=3)]
with open(f"{sys.argv[2]}/{torch.distributed.get_rank()}.json", "w") as file:
    json.dump(read, file)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("labels")
    Bench(LocalStore(folder), MemorySource({"a": [f"text {number}" for number in range(ROWS)]})).run(1)
    return str(folder)


def ids(batches: Any) -> list[list[str]]:
    return [batch["sample_id"] for batch in batches]


def trainers_order(labels: str, epochs: int) -> list[list[str]]:
    reader = LabelReader(LocalStore(Path(labels)), generation=1, batch=BATCH, seed=3)
    cursor, found = reader.start(), []
    for _ in range(epochs):
        read, ended = read_epoch(reader, cursor)
        assert ended
        found.append(read)
        cursor = ended
    return found


def test_each_time_through_is_an_epoch_in_the_order_of_kdpipes_own_trainers(labels: str) -> None:
    loader = DataLoader(LabelDataset(labels, batch=BATCH, seed=3), batch_size=None)
    read = [[sample for batch in ids(loader) for sample in batch] for _ in range(3)]
    assert read == trainers_order(labels, 3)
    assert read[0] != read[1] != read[2]


def test_a_batch_has_what_the_teacher_said(labels: str) -> None:
    batch = next(iter(LabelDataset(labels, batch=BATCH, seed=3)))
    assert batch["log_probs"].shape == (BATCH, 2)
    assert batch["log_probs"].dtype == torch.float32
    for text, log_probs in zip(batch["inputs"], batch["log_probs"].numpy(), strict=True):
        np.testing.assert_allclose(log_probs, expected_log_probs(text), atol=2e-3)
    assert batch["weight"].tolist() == [1.0] * BATCH
    assert batch["batch_rows"] == BATCH


@given(stop=st.integers(0, 2 * -(-ROWS // BATCH)), world=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_a_saved_place_goes_on_from_exactly_there_with_any_number_of_ranks(labels: str, stop: int, world: int) -> None:
    uncut = LabelDataset(labels, batch=BATCH, seed=3)
    whole = [batch for _ in range(2) for batch in ids(uncut)]
    first, read = LabelDataset(labels, batch=BATCH, seed=3), list[list[str]]()
    while len(read) < stop:
        for batch in first:
            read.append(batch["sample_id"])
            if len(read) == stop:
                break
    state = json.loads(json.dumps(first.state_dict()))
    ranks = [LabelDataset(labels, batch=BATCH, seed=3, rank=rank, world=world) for rank in range(world)]
    for dataset in ranks:
        dataset.load_state_dict(state)
    through = max(stop - 1, 0) // -(-ROWS // BATCH)
    for _ in range(2 - through):
        read += [[sample for part in parts for sample in part] for parts in zip(*(ids(dataset) for dataset in ranks), strict=True)]
    assert read == whole


def test_a_place_in_other_labels_is_refused(labels: str, tmp_path: Path) -> None:
    Bench(LocalStore(tmp_path), MemorySource({"a": ["text"]})).run(1)
    other = LabelDataset(str(tmp_path), batch=BATCH, seed=3)
    list(other)
    mine = LabelDataset(labels, batch=BATCH, seed=3)
    mine.load_state_dict(other.state_dict())
    with pytest.raises(CursorForeignError):
        list(mine)


def test_labels_that_are_not_there_yet_are_waited_for(tmp_path: Path) -> None:
    bench = Bench(LocalStore(tmp_path), MemorySource({"a": ["one", "two"]}))
    labelling = bench.labelling(1)
    labelling.plan()
    waited = []

    def label() -> None:
        waited.append(1)
        bench.run(1)

    assert ids(LabelDataset(str(tmp_path), batch=2, wait=label)) in ([["a:0", "a:1"]], [["a:1", "a:0"]])
    assert len(waited) == 1


def test_a_loader_process_whose_place_would_be_lost_with_it_is_refused(labels: str) -> None:
    """It would begin at the same place each time through, and the data set here would say that nothing was read."""
    with pytest.raises(RuntimeError, match=r"num_workers = 1: a copy in a process of its own.*; expected num_workers = 0"):
        list(DataLoader(LabelDataset(labels, batch=BATCH), batch_size=None, num_workers=1))


def test_ranks_that_do_not_know_each_other_are_refused_and_known_when_reading_begins(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would learn from everything, as where the data set is made before the process group."""
    early = LabelDataset(labels, batch=BATCH, seed=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2 and there is no process group.*; call torch.distributed.init_process_group"):
        list(early)
    with pytest.raises(ConfigError, match=r"rank = 1, world = None; expected both, or neither"):
        LabelDataset(labels, batch=BATCH, rank=1)
    assert [len(batch) for batch in ids(LabelDataset(labels, batch=BATCH, rank=1, world=2))] == [4] * 6 + [1]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert ids(early) == ids(LabelDataset(labels, batch=BATCH, seed=3, rank=1, world=2))


@pytest.mark.parametrize("generation", [7, 0, -1])
def test_a_generation_whose_labels_never_come_is_refused_and_the_next_is_waited_for(labels: str, generation: int) -> None:
    def wait() -> None:
        raise TimeoutError

    with pytest.raises(ConfigError, match=rf"generation = {generation}; expected one that ended \(1\), or 2, the next"):
        list(LabelDataset(labels, batch=BATCH, generation=generation, wait=wait))
    with pytest.raises(TimeoutError):
        list(LabelDataset(labels, batch=BATCH, generation=2, wait=wait))


def test_a_place_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoLabelsThereError, match="tipo: no label log; expected DIR/labels of a run"):
        list(LabelDataset(str(tmp_path / "tipo"), batch=2))
    assert not (tmp_path / "tipo").exists()


def test_labels_of_two_teachers_are_read_where_that_is_asked_for_with_what_a_sparse_codec_kept(tmp_path: Path) -> None:
    bench = Bench(LocalStore(tmp_path), MemorySource({"a": ["one", "two"]}), mixed_teachers=True, codec="top_k", codec_k=1)
    bench.run(1)
    bench.teacher.fingerprint = "teacher-2"
    bench.source.texts["b"] = ["three"]
    bench.run(2)
    with pytest.raises(MixedTeachersError):
        list(LabelDataset(str(tmp_path), batch=4))
    (batch,) = LabelDataset(str(tmp_path), batch=4, mixed_teachers=True)
    assert batch["sample_id"] == ["b:0"]
    recorded = batch["recorded"]
    kept = torch.cat([recorded.log_probs_BR, recorded.tail_B[:, None]], dim=1)
    torch.testing.assert_close(kept.exp().sum(1), torch.ones(1), atol=1e-3, rtol=0)
    assert recorded.ids_BR.tolist() == [[int(expected_log_probs("three").argmax())]]
    assert batch["embedding"] is None


class Numbers(MemorySource):
    """Its texts' lengths, each beside a 1."""

    section = SourceSection(path="memory", kind="floats")

    def read(self, identity: str, rows: Any) -> Any:
        batch = super().read(identity, rows)
        lengths = pa.array([[len(text), 1] for text in batch["input"].to_pylist()], pa.list_(pa.float32()))
        return batch.set_column(batch.schema.get_field_index("input"), "input", lengths)


def test_a_rank_without_a_sample_gets_tensors_of_the_others_shape(tmp_path: Path) -> None:
    bench = Bench(LocalStore(tmp_path), Numbers({"a": ["one"]}))
    bench.teacher.log_probs = lambda inputs: np.log(np.full((len(inputs), 2), 0.5, dtype=np.float32))  # type: ignore[method-assign]
    bench.run(1)
    ((first,), (second,)) = (list(LabelDataset(str(tmp_path), batch=4, rank=rank, world=2)) for rank in range(2))
    assert sorted(batch["inputs"].tolist() for batch in (first, second)) == [[], [[3.0, 1.0]]]
    for batch in (first, second):
        assert batch["inputs"].shape[1] == batch["log_probs"].shape[1] == 2
        assert batch["batch_rows"] == 1


def test_torchrun_gives_each_process_its_slice(labels: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(tmp_path / "script.py"), labels, str(tmp_path)], check=True, timeout=120, capture_output=True)
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    together = [sample for one, other in zip(*parts, strict=True) for sample in one + other]
    assert together == trainers_order(labels, 1)[0]


def test_a_loop_may_ask_for_the_columns_it_looks_at(labels: str) -> None:
    some = LabelDataset(labels, batch=BATCH, seed=3, columns=("log_probs", "sample_id"))
    for found, whole in zip(some, LabelDataset(labels, batch=BATCH, seed=3), strict=True):
        assert found.keys() == {"sample_id", "log_probs", "batch_rows"}
        assert found["sample_id"] == whole["sample_id"]
        assert torch.equal(found["log_probs"], whole["log_probs"])
    with pytest.raises(ConfigError, match="lables; expected some of sample_id, inputs"):
        LabelDataset(labels, batch=BATCH, columns=("lables",))
