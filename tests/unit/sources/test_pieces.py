"""Decoded pieces of files: kept while they fit, over all files of a process."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SourceSection
from pipeline.sources.files import open_files
from pipeline.sources.formats import DecodedPieces


def table_of(rows: int) -> pa.Table:
    return pa.table({"x": pa.array(np.zeros(rows, dtype=np.float64))})


def test_of_all_files_together_no_more_pieces_are_kept_than_fit():
    kept = DecodedPieces(most_bytes=3 * table_of(100).nbytes)
    for file in range(3):
        kept.keep((file, 0), table_of(100))
    assert kept.get((0, 0)) is not None
    kept.keep((9, 0), table_of(100))
    assert [kept.get((file, 0)) is not None for file in (0, 1, 2, 9)] == [True, False, True, True], "the one used longest ago is gone"
    kept.keep((10, 0), table_of(1000))
    assert kept.get((10, 0)) is not None
    assert all(kept.get((file, 0)) is None for file in (0, 2, 9))
    kept.drop(10)
    assert kept.get((10, 0)) is None


def test_parquet_says_what_reading_it_in_any_order_holds_and_lines_hold_nothing(tmp_path):
    rows = pa.table({"text": ["a" * 100] * 1000, "other": pa.array(np.random.default_rng(1).random(1000))})
    pq.write_table(rows, tmp_path / "a.parquet", use_dictionary=False)
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n')
    parquet, lines = open_files(SourceSection(path="."), tmp_path).parts()
    assert 100_000 < parquet.held_bytes < 120_000, "the column that is read, decompressed"
    assert lines.held_bytes == 0
