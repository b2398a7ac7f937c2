"""Soft labels as durable facts: a store, shards, a commit log, leases and a reading order.

    source rows -> units (ledger) -> shards (store) -> commits and sealed windows (log) -> batches (reader)

The log is the truth. A shard that no commit names does not exist; a row that a commit covers is never asked about again.
"""
