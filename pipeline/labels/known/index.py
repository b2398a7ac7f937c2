"""The index of known contents: some tables, and a manifest that names them.

    known/tables/{first_commit}-{stop_commit}-{term}.table
    known/manifests/{number}.json     which tables there are and up to which commit they go; put once, the newest counts

Made from the shards of committed rows and nothing else, by the holder of the current term. Whatever is lost, stale or wrong here costs
questions to the teacher and never a label: a hit is checked against the shard. A crash leaves the older manifest, or a table that nobody
names, which a later term removes. Tables are merged as a binary counter carries, up to `TABLE_MAX_BYTES`, so that a row is written a few
times however long the log, and opening maps a few files.
"""

import io
import mmap
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.labels.content import KEY_BYTES, keys_of_column, no_keys
from pipeline.labels.entries import Count, Fact, ShardRef
from pipeline.labels.known.table import Rows, Table, TableUnreadableError, encode_table, joined, mixed, table_bytes
from pipeline.labels.shard import CONTENT_KEY, maker_of
from pipeline.labels.state import LogState
from pipeline.labels.store import MappedStore, ObjectMissingError, Store

KNOWN = "known/"
MANIFESTS, TABLES = f"{KNOWN}manifests/", f"{KNOWN}tables/"
MANIFEST_MAX_BYTES = 1 << 20
TABLE_MAX_BYTES = 64 * 2**20
"""Tables are merged up to here."""
ROWS_AT_ONCE = 1 << 20
"""Rows that become one table; a longer tail is indexed piece by piece, so that a crash loses a piece."""
READ_AT_ONCE, READERS = 256, 16
"""Shards whose keys are in memory before they are in a table; how many are read at the same time over a network."""
_CHUNK_BYTES = 8 * 2**20
_HEAD_BYTES = 32 * 2**10
"""More than the schema takes, with a thousand classes."""


class TableRef(Fact):
    """A table as its manifest has it: what the commits [first_commit, stop_commit) hold."""

    key: str
    bytes: Count
    crc32: Count
    first_commit: Count
    stop_commit: Count


class Index(Fact):
    """One manifest."""

    version: Literal[1] = 1
    log: str
    """Identity of the log it was made from."""
    number: Count
    term: Count
    tables: tuple[TableRef, ...] = ()
    stop_commit: Count = 0
    """Commits before this one have been looked at."""


def newest_index(store: Store, *, log: str) -> Index | None:
    """The newest manifest that can be read and is of this log."""
    for key in reversed(list(store.list(MANIFESTS))):
        try:
            found = Index.model_validate_json(store.get_range(key, 0, MANIFEST_MAX_BYTES))
        except (ObjectMissingError, ValidationError):
            continue
        if found.log == log:
            return found
    return None


def index_commits(store: Store, state: LogState, *, term: int) -> Index | None:
    """Take in the commits that are not indexed yet; the newest index then. None if somebody else writes it now.

    Tables that are gone or damaged are made again. May be called again after any exception.
    """
    number = _next_number(store)  # before the manifest is read: whoever puts a newer one meanwhile has this number
    index = newest_index(store, log=state.log) or Index(log=state.log, number=0, term=term)
    if index.term > term:
        return None
    index = _without_lost(store, index)
    try:
        for rows, first, stop in _new_rows(store, state, max(index.stop_commit, state.dropped_commits)):
            made = _next_index(store, index, rows, (first, stop), state, number=number, term=term)
            if made is None:
                return None
            index, number = made, number + 1
    except TableUnreadableError as bad:
        store.delete(bad.key)
        return index_commits(store, state, term=term)
    return index


def open_table(store: Store, ref: TableRef) -> Table:
    """The table, mapped; from a store that maps nothing, by way of a local file without a name.

    Raises ObjectMissingError, TableUnreadableError.
    """
    if isinstance(store, MappedStore):
        data: Any = store.map(ref.key)
    else:
        with tempfile.TemporaryFile() as local:
            for start in range(0, ref.bytes, _CHUNK_BYTES):
                local.write(store.get_range(ref.key, start, min(_CHUNK_BYTES, ref.bytes - start)))
            local.flush()
            data = memoryview(mmap.mmap(local.fileno(), 0, access=mmap.ACCESS_READ)) if local.tell() else b""
    if len(data) != ref.bytes:
        raise TableUnreadableError(ref.key, f"{len(data)} bytes, not {ref.bytes}")
    return Table(data, key=ref.key)


def _new_rows(store: Store, state: LogState, start: int) -> Iterator[tuple[Rows, int, int]]:
    """(rows, first commit, stop commit), a table's worth at a time, of the commits from `start` on."""
    parts, count, stop = list[Rows](), 0, len(state.commits)
    for first in range(start, stop, READ_AT_ONCE):
        refs = [state.shard_of(commit) for commit in state.commits[first : min(first + READ_AT_ONCE, stop)]]
        found = _keys_of_shards(store, refs)
        for number, (ref, keys_N2) in enumerate(zip(refs, found, strict=True), start=first):
            place_N = np.arange(len(keys_N2), dtype=np.uint32)
            parts.append(Rows(keys_N2=keys_N2, commit_N=np.full(len(keys_N2), number, dtype=np.uint32), place_N=place_N))
            count += ref.rows
        if count >= ROWS_AT_ONCE or first + READ_AT_ONCE >= stop:
            yield joined(parts), start, min(first + READ_AT_ONCE, stop)
            parts, count, start = [], 0, first + READ_AT_ONCE


def _keys_of_shards(store: Store, refs: Sequence[ShardRef]) -> Sequence[NDArray[np.uint64]]:
    """The keys of each, `mixed`. Over a network some are read at a time, and of each no more than two ends."""
    if isinstance(store, MappedStore):
        return [_keys_of_shard(store, ref) for ref in refs]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(_keys_of_shard, store), refs))


def _keys_of_shard(store: Store, ref: ShardRef) -> NDArray[np.uint64]:
    """None if the shard is gone, damaged or without keys."""
    try:
        source = _source(store, ref)
        schema = pa.ipc.open_file(source).schema
        if CONTENT_KEY not in schema.names:
            return no_keys(0)
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(CONTENT_KEY)])
        column = pa.ipc.open_file(source, options=options).read_all()[CONTENT_KEY].combine_chunks()
        keys_N2 = mixed(keys_of_column(column), maker_of(schema))
    except (ObjectMissingError, pa.ArrowException, ValueError, OSError):  # Arrow says OSError too of what is damaged
        return no_keys(0)
    return keys_N2 if len(keys_N2) == ref.rows else no_keys(0)


def _next_index(store: Store, index: Index, rows: Rows, span: tuple[int, int], state: LogState, *, number: int, term: int) -> Index | None:
    """Put a table of these rows, merged with those before it that are no larger, and the manifest that names it.

    Raises TableUnreadableError for a table that can't be merged.
    """
    kept = [ref for ref in index.tables if ref.stop_commit > state.dropped_commits]
    size, taken = table_bytes(len(rows.place_N)), list[TableRef]()
    while kept and kept[-1].bytes <= size and kept[-1].bytes + size <= TABLE_MAX_BYTES:
        taken.insert(0, kept.pop())
        size += taken[0].bytes
    data = encode_table(joined([*(_checked_rows(store, ref).since(state.dropped_commits) for ref in taken), rows]))
    first, stop = (taken[0].first_commit if taken else span[0]), span[1]
    key = f"{TABLES}{first:012d}-{stop:012d}-{term}.table"
    store.put(key, data)
    ref = TableRef(key=key, bytes=len(data), crc32=zlib.crc32(data), first_commit=first, stop_commit=stop)
    made = Index(log=state.log, number=number, term=term, tables=(*kept, ref), stop_commit=stop)
    if not store.put_if_absent(f"{MANIFESTS}{number:020d}.json", made.model_dump_json().encode()):
        return None  # another driver writes here; if it is the newer, this one will hear of it from the log
    _remove_unnamed(store, made)
    return made


def _checked_rows(store: Store, ref: TableRef) -> Rows:
    """All entries of a table."""
    try:
        data = store.get(ref.key)
    except ObjectMissingError as error:
        raise TableUnreadableError(ref.key, "it is missing") from error
    if zlib.crc32(data) != ref.crc32:
        raise TableUnreadableError(ref.key, "its checksum is wrong")
    return Table(data, key=ref.key).rows()


def _without_lost(store: Store, index: Index) -> Index:
    """The index up to the first table that is not there whole; what comes after it is made again."""
    for place, ref in enumerate(index.tables):
        if store.size(ref.key) != ref.bytes:
            return index.model_copy(update={"tables": index.tables[:place], "stop_commit": ref.first_commit})
    return index


def _next_number(store: Store) -> int:
    numbers = [key.removeprefix(MANIFESTS).removesuffix(".json") for key in store.list(MANIFESTS)]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def _remove_unnamed(store: Store, index: Index) -> None:
    """Delete what the new manifest made superfluous, and what crashed; never a table that a newer term may be about to name."""
    named = {ref.key for ref in index.tables}
    for key in store.list(TABLES):
        if key not in named and int(key.removesuffix(".table").rpartition("-")[2]) <= index.term:
            store.delete(key)
    for key in store.list(MANIFESTS):
        if key < f"{MANIFESTS}{index.number:020d}.json":
            store.delete(key)


def _source(store: Store, ref: ShardRef) -> Any:
    if isinstance(store, MappedStore):
        data = store.map(ref.key)
        if len(data) != ref.bytes:
            raise ValueError(f"{ref.key} has {len(data)} bytes")
        return pa.py_buffer(data)
    return pa.PythonFile(_Ends(store, ref), mode="r")


class _Ends(io.RawIOBase):
    """A shard as a file of which two ends are there: schema and footer, and the keys, which are its last column."""

    def __init__(self, store: Store, ref: ShardRef) -> None:
        head = min(_HEAD_BYTES, ref.bytes)
        tail = max(ref.bytes - KEY_BYTES * ref.rows - _HEAD_BYTES, head)
        self._store, self._ref, self._at = store, ref, 0
        self._ends = [(start, store.get_range(ref.key, start, stop - start)) for start, stop in ((0, head), (tail, ref.bytes))]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ref.bytes}[whence]
        return self._at

    def size(self) -> int:
        return self._ref.bytes

    def read(self, size: int = -1) -> bytes:
        stop = self._ref.bytes if size < 0 else min(self._at + size, self._ref.bytes)
        held = (data[self._at - start : stop - start] for start, data in self._ends if start <= self._at and stop <= start + len(data))
        found = next(held, None)
        if found is None:
            found = self._store.get_range(self._ref.key, self._at, max(stop - self._at, 0))
        self._at += len(found)
        return found
