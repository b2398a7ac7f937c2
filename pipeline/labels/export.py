"""Stored labels for use elsewhere: checked, every codec decoded to all classes, in the order of the log, the same whenever it is asked.

parquet   one file
hf        a folder that Hugging Face's `datasets.load_from_disk` opens; see `dataset_folder`

What is asked for appears whole or not at all; what a crash left behind begins with `.tmp-`. Memory is that of one shard and a few thousand
decoded rows, whatever there is to write. A sample that was forgotten has weight 0.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, MachineError
from pipeline.files import TEMPORARY, sync_folder
from pipeline.labels.dataset_folder import DatasetFolder
from pipeline.labels.embedding import EMBEDDING, embeddings_of, one_width
from pipeline.labels.intervals import Intervals
from pipeline.labels.log import LogReader
from pipeline.labels.shard import Shard, read_shard, stored_embedding_width
from pipeline.labels.state import LogState
from pipeline.labels.store import Store
from pipeline.labels.stored import COLUMNS, NothingLabelledError

DECODED_BYTES = 32 << 20
"""Log-probabilities in memory at a time."""


class ExportFailedError(MachineError):
    """The place to export to can't be written."""

    def __init__(self, out: str, reason: str) -> None:
        super().__init__(out, reason)
        self.out, self.reason = out, reason

    def __str__(self) -> str:
        return f"{self.out}: {self.reason}; expected to write there; nothing of it was left; free space, or choose another place"


class Writer(Protocol):
    """Takes tables of one schema and makes them durable when it is left without an exception."""

    def __init__(self, path: Path, *, classes: tuple[str, ...], name: str) -> None:
        """`path` is not there yet. `name` identifies what is written, for whoever caches by it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def write(self, table: pa.Table) -> None: ...


class ParquetFile:
    """One file; the classes are in the schema's metadata under `kdpipe.classes`."""

    def __init__(self, path: Path, *, classes: tuple[str, ...], name: str) -> None:
        self._path = path
        self._metadata = {"kdpipe.classes": json.dumps(classes), "kdpipe.log": name}
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def write(self, table: pa.Table) -> None:
        table = table.replace_schema_metadata(self._metadata)
        self._writer = self._writer or pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer:
            self._writer.close()
        if kind is None:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())


FORMATS: Mapping[str, type[Writer]] = {"parquet": ParquetFile, "hf": DatasetFolder}


def export(store: Store, out: Path, *, form: str = "parquet", progress: Callable[[int, int], None] = lambda done, rows: None) -> int:
    """Write every label that is kept to the new file or folder `out`, in one of FORMATS; its rows. `progress` hears (rows done, rows).

    Columns: those of `stored.COLUMNS`, `log_probs` (K float32, natural log, in the order of the classes, which the format says), `weight`
    (0 or 1), `teacher` (fingerprint), and, if any shard has it, `embedding` (D float32, null in rows of shards without). Raises ConfigError
    if `out` is there, NothingLabelledError, ShardCorruptError, MixedEmbeddingsError, ExportFailedError.
    """
    state = LogReader(store).refresh()
    if not state.rows_kept:
        raise NothingLabelledError
    if out.exists() or out.is_symlink():
        raise _taken(out)
    if not out.parent.is_dir():
        raise ConfigError("OUT", f"no folder {out.parent}", "a name in a folder that is there", f"mkdir -p {out.parent}")
    rows, kept, partial = 0, state.rows_kept, out.with_name(f"{TEMPORARY}{os.getpid()}-{out.name}")
    _remove(partial)
    try:
        with _writing(out), FORMATS[form](partial, classes=state.classes, name=f"{state.log}.{state.next_seq}") as writer:
            for table in _tables(store, state):
                writer.write(table)
                rows += len(table)
                progress(rows, kept)
        with _writing(out):
            _publish(partial, out)
    finally:
        _remove(partial)
    return rows


def _tables(store: Store, state: LogState) -> Iterator[pa.Table]:
    width = one_width(stored_embedding_width(store, state.shard_of(commit)) for commit in state.kept_commits())
    weightless = state.weightless()
    for commit in state.kept_commits():
        shard = read_shard(store, state.shard_of(commit))
        step = max(1, DECODED_BYTES // (4 * len(shard.classes)))
        for start in range(0, len(shard.table), step):
            yield _columns(shard, slice(start, start + step), weightless, width)


def _columns(shard: Shard, rows: slice, weightless: Intervals, width: int | None) -> pa.Table:
    log_probs_NK = shard.log_probs(rows)
    part = shard.table.slice(rows.start, rows.stop - rows.start)
    weight_N = np.where(weightless.mask(part["row"].to_numpy()), np.float32(0), np.float32(1))
    table = part.select(COLUMNS)
    table = table.append_column("log_probs", pa.FixedSizeListArray.from_arrays(pa.array(log_probs_NK.reshape(-1)), log_probs_NK.shape[1]))
    table = table.append_column("weight", pa.array(weight_N))
    table = table.append_column("teacher", pa.array([shard.teacher] * len(part), pa.string()))
    if width is None:
        return table
    seen_ND = embeddings_of(part)
    if seen_ND is None:
        return table.append_column(EMBEDDING, pa.nulls(len(part), pa.list_(pa.float32(), width)))
    numbers = pa.array(seen_ND.astype(np.float32).reshape(-1))
    return table.append_column(EMBEDDING, pa.FixedSizeListArray.from_arrays(numbers, width))


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportFailedError(str(out), error.strerror or str(error)) from error


def _publish(partial: Path, out: Path) -> None:
    try:
        if partial.is_dir():
            partial.rename(out)  # refuses whatever is there, but for an empty folder
        else:
            os.link(partial, out)
    except OSError as error:
        if out.exists():
            raise _taken(out) from error
        raise
    sync_folder(out.parent)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)


def _taken(out: Path) -> ConfigError:
    return ConfigError("OUT", f"{out} is there already", "a name that is not there", "move it away, or choose another name")
