"""Writing a recipe's tables."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.files import write_atomic


def write_table(path: Path, table: Any) -> None:
    """A table as Parquet, whole or not at all. Row groups of 1,024, so that a reader of a few rows decodes little."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=1024)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
