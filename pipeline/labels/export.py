"""Stored labels as one Parquet file, for use elsewhere: a shard at a time, checked, every codec decoded to all classes.

The file appears whole or not at all; what a crash left behind begins with `.tmp-`. Rows come in the order of the log, the same whenever
it is asked. A sample that was forgotten has weight 0.
"""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.files import sync_folder
from pipeline.labels.log import LogReader
from pipeline.labels.shard import Shard, read_shard
from pipeline.labels.state import LogState
from pipeline.labels.store import Store
from pipeline.labels.stored import COLUMNS, NothingLabelledError


def export_parquet(store: Store, out: Path) -> int:
    """Write every committed label to the new file `out`; its rows.

    Columns: those of `stored.COLUMNS`, `log_probs` (a list of float32, natural log, by class as in the schema's metadata under
    `kdpipe.classes`), `weight` (0 or 1), `teacher` (fingerprint).
    Raises ConfigError if `out` is there, NothingLabelledError, ShardCorruptError.
    """
    state = LogReader(store).refresh()
    if not state.commits:
        raise NothingLabelledError
    if out.exists():
        raise _taken(out)
    rows, writer, partial = 0, None, out.with_name(f".tmp-{os.getpid()}-{out.name}")
    try:
        for commit in state.commits:
            table = _columns(read_shard(store, state.shard_of(commit)), state)
            writer = writer or pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(table)
            rows += len(table)
        assert writer is not None
        writer.close()
        _publish(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _columns(shard: Shard, state: LogState) -> pa.Table:
    log_probs_NK = shard.log_probs()
    table = shard.table.select(COLUMNS)
    weight_N = np.where(state.tombstoned.mask(shard.table["row"].to_numpy()), np.float32(0), np.float32(1))
    log_probs = pa.FixedSizeListArray.from_arrays(pa.array(log_probs_NK.reshape(-1)), log_probs_NK.shape[1])
    table = table.append_column("log_probs", log_probs.cast(pa.list_(pa.float32())))
    table = table.append_column("weight", pa.array(weight_N))
    table = table.append_column("teacher", pa.array([shard.teacher] * len(table), pa.string()))
    return table.replace_schema_metadata({"kdpipe.classes": json.dumps(shard.classes)})


def _publish(partial: Path, out: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(partial, out)
    except FileExistsError as error:
        raise _taken(out) from error
    sync_folder(out.parent)


def _taken(out: Path) -> ConfigError:
    return ConfigError("OUT", f"{out} is there already", "a file that is not there", "move it away, or choose another name")
