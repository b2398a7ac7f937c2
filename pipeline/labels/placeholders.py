"""Placeholders: what a shard holds at the place of a row without a label of its own, because it has none or must be forgotten.

The id is the row's place in its part. The input is empty and of the others' shape, since a row of weight 0 still goes through a student;
every class is as likely as the others; there is no hard label and no content key. That it weighs nothing is said by a tombstone in the log.

P placeholders, N rows.
"""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.labels.content import no_keys
from pipeline.labels.embedding import embedding_width
from pipeline.labels.entries import Plan
from pipeline.labels.rowspace import part_rows
from pipeline.labels.shard import CONTENT_KEY, LabelledRows, Shard, encode_shard


def placeholder_ids(plan: Plan, rows_P: NDArray[np.int64]) -> pa.Array:
    """Ids of placeholders at those global rows of the plan."""
    return pa.array([f"{plan.part}:{row}" for row in part_rows(plan, rows_P)], pa.string())


def filled(inputs: pa.Array, *, width: int) -> pa.Array:
    """The inputs with a placeholder where there is none: an empty text, or `width` zeros."""
    if not inputs.null_count:
        return inputs
    if pa.types.is_string(inputs.type):
        return pc.fill_null(inputs, "")
    return pa.array([row.as_py() if row.is_valid else [0.0] * width for row in inputs], inputs.type)


def without(batch: pa.RecordBatch, places: Collection[int], ids: pa.Array) -> pa.RecordBatch:
    """A source's rows, those at the places with their placeholder's id, no input and no label."""
    blank = pa.array(np.isin(np.arange(len(batch)), list(places)))
    columns = {name: pc.if_else(blank, pa.scalar(None, batch.schema.field(name).type), batch[name]) for name in ("input", "label")}
    return batch.from_pydict({"sample_id": pc.if_else(blank, ids, batch["sample_id"]), **columns})


def usual_width(inputs: pa.ChunkedArray) -> int:
    """Length of the samples' lists of numbers, going by the first; 1 for texts."""
    return 1 if pa.types.is_string(inputs.type) else int(np.median([len(row) for row in inputs[:32]]))


def placeholders_of(shard: Shard, plan: Plan, places_P: NDArray[np.int64]) -> pa.Table:
    """Placeholders for the rows at those places, as the shard would have them today: in all columns, of the newest version."""
    table, rows_P = shard.table, shard.table["row"].to_numpy()[places_P]
    count, classes, width = len(rows_P), len(shard.classes), embedding_width(table.schema)
    rows = LabelledRows(
        rows_N=rows_P,
        sample_ids=placeholder_ids(plan, rows_P),
        inputs=filled(pa.nulls(count, table.schema.field("input").type), width=usual_width(table["input"])),
        log_probs_NK=np.full((count, classes), -np.log(classes), dtype=np.float32),
        labels=pa.nulls(count, pa.string()),
        embedding_ND=None if width is None else np.zeros((count, width), dtype=np.float16),
        keys_N2=no_keys(count) if CONTENT_KEY in table.schema.names else None,
    )
    return pa.ipc.open_file(encode_shard(rows, teacher=shard.teacher, classes=shard.classes, codec=shard.codec)).read_all()


def replaced(table: pa.Table, places_P: NDArray[np.int64], placeholders: pa.Table) -> pa.RecordBatch:
    """The rows of a shard with the placeholders at those places. The others are copied bit for bit; nothing points at the old bytes."""
    others = np.setdiff1d(np.arange(len(table)), places_P)
    kept = table.select(placeholders.schema.names).replace_schema_metadata(placeholders.schema.metadata).take(pa.array(others))
    order = np.argsort(np.concatenate([others, places_P]), kind="stable")
    (batch,) = pa.concat_tables([kept, placeholders]).take(pa.array(order)).combine_chunks().to_batches()
    return batch
