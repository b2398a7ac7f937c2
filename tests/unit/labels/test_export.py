"""Labels as Parquet: what students read, in the order of the log, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.labels.export import export_parquet
from pipeline.labels.log import LogReader
from pipeline.labels.shard import ShardCorruptError
from pipeline.labels.stored import NothingLabelledError
from tests.kit.labelling import Bench, MemorySource, expected_log_probs
from tests.kit.stores import MemoryStore

TEXTS = [f"text {number}" for number in range(30)]


def labelled(**section: object) -> MemoryStore:
    store = MemoryStore()
    Bench(store, MemorySource({"a": TEXTS}), **section).run()  # type: ignore[arg-type]
    return store


@pytest.mark.parametrize("section", [{}, {"codec": "top_k", "codec_k": 1}])
def test_every_label_comes_out_once_with_its_classes_in_the_order_of_the_log(tmp_path: Path, section: dict[str, object]) -> None:
    store = labelled(**section)
    assert export_parquet(store, tmp_path / "labels.parquet") == len(TEXTS)
    table = pq.read_table(tmp_path / "labels.parquet")
    assert sorted(table["input"].to_pylist()) == sorted(TEXTS)
    expected_NK = np.stack([expected_log_probs(text) for text in table["input"].to_pylist()])
    np.testing.assert_allclose(np.array(table["log_probs"].to_pylist()), expected_NK, atol=5e-2)
    assert tuple(json.loads(table.schema.metadata[b"kdpipe.classes"])) == LogReader(store).refresh().classes
    assert set(table["weight"].to_pylist()) == {1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["labels.parquet"]


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "labels.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is there already"):
        export_parquet(labelled(), out)
    assert out.read_bytes() == b"mine"


def test_a_corrupt_shard_leaves_no_file(tmp_path: Path) -> None:
    store = labelled()
    key = LogReader(store).refresh().commits[-1].shard.key
    store.put(key, b"x" + store.get(key)[1:])
    with pytest.raises(ShardCorruptError):
        export_parquet(store, tmp_path / "labels.parquet")
    assert not list(tmp_path.iterdir())


def test_without_labels_it_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(NothingLabelledError, match="kdpipe run"):
        export_parquet(MemoryStore(), tmp_path / "labels.parquet")
