"""Labels for use elsewhere: what students read, in the order of the log, whole or not at all."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.errors import ConfigError
from pipeline.labels import dataset_folder
from pipeline.labels import export as exporting
from pipeline.labels.export import FORMATS, ExportFailedError, ParquetFile, export
from pipeline.labels.log import LogReader
from pipeline.labels.shard import ShardCorruptError
from pipeline.labels.store import LocalStore
from pipeline.labels.stored import NothingLabelledError, StoredLabels
from tests.kit.labelling import CLASSES, Bench, MemorySource, expected_log_probs
from tests.kit.stores import MemoryStore
from workers.cli import app
from workers.driver.folder import write_json

TEXTS = [f"text {number}" for number in range(30)]

RECORDED_STATE: dict[str, Any] = {
    "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
    "_fingerprint": "28d5573ebf06c86c",
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}
"""state.json as `Dataset.save_to_disk` of datasets 5.2.0 and 3.6.0 write it."""

RECORDED_FEATURES: dict[str, Any] = {
    "sample_id": {"dtype": "string", "_type": "Value"},
    "input": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["ham", "spam"], "_type": "ClassLabel"},
    "entropy": {"dtype": "float32", "_type": "Value"},
    "margin": {"dtype": "float32", "_type": "Value"},
    "disagreement": {"dtype": "float32", "_type": "Value"},
    "agreement": {"dtype": "float32", "_type": "Value"},
    "log_probs": {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "Sequence"},
    "weight": {"dtype": "float32", "_type": "Value"},
    "teacher": {"dtype": "string", "_type": "Value"},
}
"""`features` in dataset_info.json as datasets 3.6.0 writes them for these columns; 5.2.0 says `List` for `Sequence`, and reads both."""


def labelled(store: Any = None, **section: object) -> Any:
    store = store or MemoryStore()
    Bench(store, MemorySource({"a": TEXTS}), **section).run()  # type: ignore[arg-type]
    return store


def read_folder(out: Path) -> pa.Table:
    """The folder as `load_from_disk` reads it: the files that state.json names, in that order."""
    files = json.loads((out / "state.json").read_bytes())["_data_files"]
    return pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(out / file["filename"]))).read_all() for file in files])


def read(out: Path) -> pa.Table:
    return read_folder(out) if out.is_dir() else pq.read_table(out)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("section", [{}, {"codec": "top_k", "codec_k": 1}])
def test_every_label_comes_out_once_in_the_order_of_the_log(tmp_path: Path, section: dict[str, object], form: str) -> None:
    store, told = labelled(**section), list[tuple[int, int]]()
    assert export(store, tmp_path / "out", form=form, progress=lambda *rows: told.append(rows)) == len(TEXTS)
    table = read(tmp_path / "out")
    state = LogReader(store).refresh()
    assert table["sample_id"].to_pylist() == [sample.sample_id for sample in StoredLabels(store).first(1000)]
    assert sorted(table["input"].to_pylist()) == sorted(TEXTS)
    expected_NK = np.stack([expected_log_probs(text) for text in table["input"].to_pylist()])
    np.testing.assert_allclose(np.array(table["log_probs"].to_pylist()), expected_NK, atol=5e-2)
    assert set(table["weight"].to_pylist()) == {1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert told[-1] == (len(TEXTS), state.rows_labelled)


def test_the_order_of_the_classes_is_in_the_parquet_schema(tmp_path: Path) -> None:
    export(labelled(), tmp_path / "out")
    assert tuple(json.loads(pq.read_schema(tmp_path / "out").metadata[b"kdpipe.classes"])) == CLASSES


def test_a_dataset_folder_is_laid_out_as_the_library_does_it(tmp_path: Path) -> None:
    export(labelled(), tmp_path / "out", form="hf")
    state, info = (json.loads((tmp_path / "out" / name).read_bytes()) for name in ("state.json", "dataset_info.json"))
    assert state | {"_fingerprint": ""} == RECORDED_STATE | {"_fingerprint": ""}
    assert len(state["_fingerprint"]) == len(RECORDED_STATE["_fingerprint"])
    assert info["features"] == RECORDED_FEATURES
    assert set(info) == {"citation", "description", "features", "homepage", "license"}
    schema = read_folder(tmp_path / "out").schema
    assert json.loads(schema.metadata[b"huggingface"]) == {"info": {"features": RECORDED_FEATURES}}
    assert schema.field("log_probs").type == pa.list_(pa.float32(), 2)
    assert schema.field("label").type == pa.int64()


def test_hard_labels_become_class_numbers(tmp_path: Path) -> None:
    store = labelled()
    export(store, tmp_path / "named")
    export(store, tmp_path / "numbered", form="hf")
    named = read(tmp_path / "named")["label"].to_pylist()
    assert [CLASSES[number] for number in read(tmp_path / "numbered")["label"].to_pylist()] == named


def test_many_labels_become_many_files_of_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_folder, "FILE_BYTES", 1)
    monkeypatch.setattr(dataset_folder, "BATCH_ROWS", 2)
    monkeypatch.setattr(exporting, "DECODED_BYTES", 3 * 4 * len(CLASSES))
    store = labelled()
    assert export(store, tmp_path / "out", form="hf") == len(TEXTS)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.arrow"))
    assert len(files) > 8
    assert files[0] == f"data-00000-of-{len(files):05d}.arrow"
    assert max(batch.num_rows for batch in read(tmp_path / "out").to_batches()) == 2
    assert sorted(read(tmp_path / "out")["input"].to_pylist()) == sorted(TEXTS)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_there_is_left_alone(tmp_path: Path, form: str) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_bytes(b"mine")
    folder.mkdir()
    (folder / "mine").write_bytes(b"mine")
    for out in (file, folder):
        with pytest.raises(ConfigError, match="is there already"):
            export(labelled(), out, form=form)
    assert file.read_bytes() == (folder / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("form", FORMATS)
def test_what_appears_while_it_is_written_is_left_alone(tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"

    def meanwhile(done: int, rows: int) -> None:
        out.write_bytes(b"mine")

    with pytest.raises(ConfigError, match="is there already"):
        export(labelled(), out, form=form, progress=meanwhile)
    assert out.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_corrupt_shard_leaves_nothing(tmp_path: Path, form: str) -> None:
    store = labelled()
    key = LogReader(store).refresh().commits[-1].shard.key
    store.put(key, b"x" + store.get(key)[1:])
    with pytest.raises(ShardCorruptError):
        export(store, tmp_path / "out", form=form)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ParquetFile, table: pa.Table) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ParquetFile, "write", full)
    with pytest.raises(ExportFailedError, match="No space left on device"):
        export(labelled(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mkdir -p"):
        export(labelled(), tmp_path / "no" / "out")


def test_without_labels_it_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(NothingLabelledError, match="kdpipe run"):
        export(MemoryStore(), tmp_path / "out")


def test_the_verb_says_what_it_wrote_and_keeps_its_progress_off_standard_output(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "origin.json", {"base": "", "run": {"labelling": {}}})
    labelled(LocalStore(tmp_path / "run" / "labels"))
    for form in FORMATS:
        words = ["labels", "export", str(tmp_path / "run"), str(tmp_path / form), "--format", form]
        told = CliRunner().invoke(app, words, catch_exceptions=False)
        assert told.stdout.startswith(f"30 rows in {tmp_path / form}")
        assert "export" in told.stderr
        assert len(read(tmp_path / form)) == len(TEXTS)
