"""Finds labels of known content: from keys to label columns that are copied bit for bit, never decoded.

A hit of the index counts if the shard it points at is still there, passes its checksum, was labelled by the same teacher for the same
classes with the same codec, and has the very key at that place. Whatever does not count is a miss, never an error.
Checked shards are held, some bytes of them at a time; a shard is checked when it is taken up.

N rows looked up, C found.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import LabelStoreError
from pipeline.labels.content import is_key, keys_of_column
from pipeline.labels.known.index import newest_index, open_table
from pipeline.labels.known.table import Table, TableUnreadableError, mixed
from pipeline.labels.log import LogReader
from pipeline.labels.shard import CONTENT_KEY, Copied, label_columns, maker_of, read_shard
from pipeline.labels.store import MappedStore, ObjectMissingError, Store

HELD_BYTES = 256 * 2**20
HELD_SHARDS = 4096


@dataclass(frozen=True, kw_only=True)
class _Held:
    keys_N2: NDArray[np.uint64]
    labels: pa.RecordBatch
    bytes: int
    """In memory; 0 where the store maps its objects."""


class KnownLabels:
    """What was known when it was opened or refreshed, as one maker's labels. Used by one thread at a time."""

    def __init__(self, store: Store, *, maker: bytes) -> None:
        self._store, self._maker = store, maker
        self._log = LogReader(store)
        self._number = 0
        self._tables: list[Table] = []
        """Newest first."""
        self._held: OrderedDict[int, _Held | None] = OrderedDict()
        self._bytes = 0

    def refresh(self) -> None:
        """See what was indexed in the meantime. Raises what reading the log raises."""
        state = self._log.refresh()
        index = newest_index(self._store, log=state.log)
        if index is None or index.number == self._number:
            return
        self._number, self._tables = index.number, []
        for ref in reversed(index.tables):
            try:
                self._tables.append(open_table(self._store, ref))
            except (ObjectMissingError, TableUnreadableError):
                continue  # merged away at this moment, or damaged: what it knew is asked again

    def find(self, keys_N2: NDArray[np.uint64]) -> Copied | None:
        """Labels for the rows whose content is known; None if there are none."""
        commit_N, place_N = self._hits(keys_N2)
        places, found = list[NDArray[np.int64]](), list[pa.RecordBatch]()
        wanted = np.flatnonzero(commit_N >= 0)
        wanted = wanted[np.argsort(commit_N[wanted], kind="stable")]
        for rows in np.split(wanted, np.flatnonzero(np.diff(commit_N[wanted])) + 1) if len(wanted) else ():
            held = self._shard(int(commit_N[rows[0]]))
            if held is None:
                continue
            rows = rows[place_N[rows] < len(held.keys_N2)]
            rows = rows[(held.keys_N2[place_N[rows]] == keys_N2[rows]).all(axis=1)]
            places.append(rows)
            found.append(held.labels.take(pa.array(place_N[rows])))
        if not sum(map(len, places)):
            return None
        places_C = np.concatenate(places)
        order = np.argsort(places_C)
        return Copied(places_C=places_C[order], columns=pa.Table.from_batches(found).combine_chunks().take(pa.array(order)))

    def _hits(self, keys_N2: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(commit, place) of each key; commit is -1 where nothing is known."""
        commit_N, place_N = np.full(len(keys_N2), -1, dtype=np.int64), np.zeros(len(keys_N2), dtype=np.int64)
        own_N2, waiting = mixed(keys_N2, self._maker), np.flatnonzero(is_key(keys_N2))
        for table in self._tables:
            commit_N[waiting], place_N[waiting] = table.find(own_N2[waiting])
            waiting = waiting[commit_N[waiting] < 0]
        return commit_N, place_N

    def _shard(self, number: int) -> _Held | None:
        """The checked shard of a commit, and only if it may give labels."""
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        held = self._held[number] = self._read(number)
        self._bytes += held.bytes if held else 0
        while self._bytes > HELD_BYTES or len(self._held) > HELD_SHARDS:
            _, gone = self._held.popitem(last=False)
            self._bytes -= gone.bytes if gone else 0
        return held

    def _read(self, number: int) -> _Held | None:
        state = self._log.state
        if not state.dropped_commits <= number < len(state.commits):
            return None
        try:
            table = read_shard(self._store, state.shard_of(state.commits[number])).table
        except (LabelStoreError, OSError):
            return None
        if CONTENT_KEY not in table.schema.names or maker_of(table.schema) != self._maker:
            return None
        kept = table.select([*label_columns(table.schema), "row", CONTENT_KEY]).combine_chunks()
        size = 0
        if not isinstance(self._store, MappedStore):
            kept = kept.take(pa.array(np.arange(len(kept))))  # a copy, so that the rest of the shard's bytes go
            size = kept.nbytes
        keys_N2 = keys_of_column(kept[CONTENT_KEY].chunk(0))
        forgotten_N1 = state.tombstoned.mask(kept["row"].to_numpy())[:, None]
        labels = kept.drop_columns(["row", CONTENT_KEY]).to_batches()[0]
        return _Held(keys_N2=np.where(forgotten_N1, np.uint64(0), keys_N2), labels=labels, bytes=size)
