"""Shards as other versions of kdpipe write them."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa


def described_otherwise(data: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """The same shard with other metadata."""
    table = pa.ipc.open_file(data).read_all()
    described = change(json.loads(table.schema.metadata[b"kdpipe.shard"]))
    rewritten = table.replace_schema_metadata({b"kdpipe.shard": json.dumps(described).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rewritten.schema) as file:
        file.write_table(rewritten)
    return bytes(sink.getvalue())


def of_version_1(data: bytes) -> bytes:
    """The same shard as the first version wrote it."""
    table = pa.ipc.open_file(data).read_all().drop_columns(["agreement"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return described_otherwise(bytes(sink.getvalue()), lambda described: described | {"version": 1})
