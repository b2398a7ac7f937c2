"""A Hugging Face dataset folder, written by pyarrow alone: what `datasets.load_from_disk` opens without a conversion.

    data-00000-of-00002.arrow   Arrow IPC streams of small record batches, so that a row is found without reading its file
    dataset_info.json           the columns as `datasets` features
    state.json                  the files in their order

There is no specification: the layout is what `Dataset.save_to_disk` of datasets 3 to 5 writes, and a test compares with a recorded one.
Lists are `Sequence` in the features, which all of those read (`List` is unknown before 4).
"""

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.files import sync_folder, write_atomic

FILE_BYTES = 256 << 20
BATCH_ROWS = 1_000


class DatasetFolder:
    """The folder `path` while it is written. The column `label` becomes a ClassLabel: a class's number, null where it names none."""

    def __init__(self, path: Path, *, classes: tuple[str, ...], name: str) -> None:
        self._path, self._classes, self._name = path, classes, name
        self._files: list[Path] = []
        self._stream: Any = None
        self._sink: Any = None
        self._file_bytes = 0
        self._features: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._path.mkdir(mode=0o700)
        return self

    def write(self, table: pa.Table) -> None:
        table = self._with_class_numbers(table)
        self._features = {field.name: self._feature(field) for field in table.schema}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": self._features}})})
        if self._stream is None or self._file_bytes >= FILE_BYTES:
            self._end_file()
            self._files.append(self._path / f"{len(self._files):05d}")
            self._sink = pa.OSFile(str(self._files[-1]), "wb")
            self._stream, self._file_bytes = pa.ipc.new_stream(self._sink, table.schema), 0
        self._stream.write_table(table, max_chunksize=BATCH_ROWS)
        self._file_bytes += table.nbytes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_file()
        if kind is not None:
            return
        names = [f"data-{number:05d}-of-{len(self._files):05d}.arrow" for number in range(len(self._files))]
        for path, name in zip(self._files, names, strict=True):
            _make_durable(path)
            path.rename(self._path / name)
        info = {"citation": "", "description": f"labels of the kdpipe log {self._name}", "features": self._features}
        self._write_json("dataset_info.json", info | {"homepage": "", "license": ""})
        state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": self._fingerprint()}
        formats: dict[str, Any] = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
        self._write_json("state.json", state | formats | {"_split": None})
        sync_folder(self._path)

    def _with_class_numbers(self, table: pa.Table) -> pa.Table:
        numbers = pc.index_in(table["label"], value_set=pa.array(self._classes, pa.string())).cast(pa.int64())
        return table.set_column(table.schema.get_field_index("label"), "label", numbers)

    def _feature(self, field: pa.Field) -> dict[str, Any]:
        if field.name == "label":
            return {"names": list(self._classes), "_type": "ClassLabel"}
        return _feature_of(field.type)

    def _fingerprint(self) -> str:
        """`datasets` names its caches by it: the same labels, the same name."""
        return hashlib.blake2b(self._name.encode(), digest_size=8).hexdigest()

    def _end_file(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._sink.close()
            self._stream = self._sink = None

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        write_atomic(self._path / name, json.dumps(value, indent=2).encode())


def _feature_of(kind: pa.DataType) -> dict[str, Any]:
    """What `datasets` calls an Arrow type."""
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature_of(kind.value_type), "length": kind.list_size, "_type": "Sequence"}
    if pa.types.is_list(kind):
        return {"feature": _feature_of(kind.value_type), "_type": "Sequence"}
    # Arrow prints its floats as `float`, `double` and `halffloat`; all other names are the same.
    names = {pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def _make_durable(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
