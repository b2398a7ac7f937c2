"""Segments: facts of many log records in one immutable Arrow IPC file, so that a long history is opened without being read.

One record batch a kind, in the order of `KINDS`; its rows are the facts in log order:

    fact      string   the entry as JSON, as it is in its record
    by_start  int64    first row of each fact (windows: first commit), ascending
    place     int32    which fact has it

The file is mapped where the store can do that, and checked against the crc32 of its manifest when it is first opened. Which segments
there are, and when the tail becomes one, is left to `manifest` and `log`.
"""

import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.labels.entries import Commit, Count, Fact, LogUnreadableError, Plan, Quarantine, Seal
from pipeline.labels.store import MappedStore, ObjectMissingError, Store

SEGMENT_VERSION = b"1"
SEGMENTS_OPEN = 32
_VERSION_KEY = b"kdpipe.segment"
_SCHEMA = pa.schema([("fact", pa.string()), ("by_start", pa.int64()), ("place", pa.int32())], metadata={_VERSION_KEY: SEGMENT_VERSION})

FactT = TypeVar("FactT", bound=Fact)
Found = TypeVar("Found")

KINDS: Mapping[str, tuple[type[Fact], str]] = {
    "plans": (Plan, "first"),
    "commits": (Commit, "start"),
    "windows": (Seal, "first_commit"),
    "quarantined": (Quarantine, "start"),
}
"""Name -> what a fact of this kind is, and where it starts."""


class SegmentRef(Fact):
    """A segment as its manifest has it."""

    key: str
    bytes: Count
    crc32: Count
    counts: Mapping[str, Annotated[int, Field(ge=0)]]
    """Kind -> facts."""
    first_row: Count
    stop_row: Count
    """The rows of its commits lie in [first_row, stop_row)."""

    @property
    def facts(self) -> int:
        return sum(self.counts.values())


def encode_segment(facts: Mapping[str, Sequence[Fact]]) -> bytes:
    """The bytes of a segment of these facts, by kind, in log order."""
    return _file([_batch([fact.model_dump_json() for fact in facts[kind]], _starts(facts[kind], kind)) for kind in KINDS])


def merged(segments: Sequence["Segment"]) -> bytes:
    """The bytes of one segment of all their facts; the segments follow each other in the log."""
    batches = []
    for kind in KINDS:
        starts = [np.empty(len(segment.starts(kind)), dtype=np.int64) for segment in segments]
        for start_N, segment in zip(starts, segments, strict=True):
            start_N[segment.places(kind)] = segment.starts(kind)
        facts = pa.concat_arrays([segment.facts(kind) for segment in segments])
        batches.append(_batch(facts, np.concatenate(starts)))
    return _file(batches)


class Segment:
    """One segment, opened."""

    def __init__(self, data: Any, *, key: str) -> None:
        file = pa.ipc.open_file(pa.py_buffer(data))
        version = (file.schema.metadata or {}).get(_VERSION_KEY)
        if version != SEGMENT_VERSION:
            raise LogUnreadableError(key, f"a segment of version {version!r}, not {SEGMENT_VERSION!r}")
        self._batches = {kind: file.get_batch(number) for number, kind in enumerate(KINDS)}

    def facts(self, kind: str) -> pa.Array:
        return self._batches[kind]["fact"]

    def starts(self, kind: str) -> Any:
        """int64, ascending, a view of the file."""
        return self._batches[kind]["by_start"].to_numpy()

    def places(self, kind: str) -> Any:
        return self._batches[kind]["place"].to_numpy()

    def items(self, kind: str, start: int, stop: int) -> list[Any]:
        made, _ = KINDS[kind]
        return [made.model_validate_json(fact) for fact in self.facts(kind)[start:stop].to_pylist()]

    def starting_at(self, kind: str, row: int) -> list[Any]:
        """The facts of this kind that start at `row`."""
        first, stop = (int(np.searchsorted(self.starts(kind), row, side=side)) for side in ("left", "right"))
        return [fact for place in self.places(kind)[first:stop].tolist() for fact in self.items(kind, place, place + 1)]


def open_segment(store: Store, ref: SegmentRef) -> Segment:
    """The segment, every byte checked. Raises ObjectMissingError, LogUnreadableError."""
    data = store.map(ref.key) if isinstance(store, MappedStore) else store.get(ref.key)
    if len(data) != ref.bytes or zlib.crc32(data) != ref.crc32:
        raise LogUnreadableError(ref.key, f"{len(data)} bytes that are not the {ref.bytes} which were written")
    return Segment(data, key=ref.key)


class Segments:
    """The segments of one manifest, opened when they are asked for, some of them at a time.

    Segments that were merged into larger ones go after a grace. Whoever comes later finds the same facts in the newest manifest's.
    """

    def __init__(self, store: Store, refs: Sequence[SegmentRef], *, newest: Callable[[], Sequence[SegmentRef]]) -> None:
        self._store, self._newest = store, newest
        self._open: OrderedDict[str, Segment] = OrderedDict()
        self._opening = threading.Lock()  # a state may be looked at by several threads
        self._take(refs)

    def items(self, kind: str, start: int, stop: int) -> list[Any]:
        """Facts [start, stop) of this kind, counted over all segments. Raises LogUnreadableError."""
        return self._again_if_gone(lambda: self._items(kind, start, stop))

    def commit_of(self, key: str, *, start: int) -> Commit | None:
        """The commit of the shard `key`, whose rows begin at `start`. Looks into the segments that may have it: mostly one."""
        return self._again_if_gone(lambda: self._commit_of(key, start))

    def open(self, ref: SegmentRef) -> Segment:
        """Raises ObjectMissingError, LogUnreadableError."""
        with self._opening:
            found = self._open.pop(ref.key, None) or open_segment(self._store, ref)
            self._open[ref.key] = found  # the last used is last
            if len(self._open) > SEGMENTS_OPEN:
                self._open.popitem(last=False)
            return found

    def _take(self, refs: Sequence[SegmentRef]) -> None:
        self._refs = tuple(refs)
        self._stops = {kind: list(accumulate(ref.counts[kind] for ref in refs)) for kind in KINDS}

    def _again_if_gone(self, look: Callable[[], Found]) -> Found:
        try:
            return look()
        except ObjectMissingError:
            self._take(self._newest())
        try:
            return look()
        except ObjectMissingError as error:
            raise LogUnreadableError(error.key, "the newest manifest names it, and it is missing") from error

    def _items(self, kind: str, start: int, stop: int) -> list[Any]:
        found: list[Any] = []
        stops = self._stops[kind]
        number = bisect_right(stops, start)
        while start < stop:
            first = stops[number - 1] if number else 0
            upto = min(stop, stops[number])
            found += self.open(self._refs[number]).items(kind, start - first, upto - first)
            start, number = upto, number + 1
        return found

    def _commit_of(self, key: str, start: int) -> Commit | None:
        may_have_it = (ref for ref in reversed(self._refs) if ref.first_row <= start < ref.stop_row)
        starting = (commit for ref in may_have_it for commit in self.open(ref).starting_at("commits", start))
        return next((commit for commit in starting if commit.shard.key == key), None)


@dataclass(frozen=True)
class Filed(Generic[FactT]):
    """The first `count` facts of one kind: the older part of a history."""

    segments: Segments
    kind: str
    count: int

    def __len__(self) -> int:
        return self.count

    def items(self, start: int, stop: int) -> Sequence[FactT]:
        return self.segments.items(self.kind, start, stop)


def _starts(facts: Sequence[Fact], kind: str) -> Any:
    return np.array([getattr(fact, KINDS[kind][1]) for fact in facts], dtype=np.int64)


def _batch(facts: Any, starts_N: Any) -> pa.RecordBatch:
    place_N = np.argsort(starts_N, kind="stable")
    columns = [pa.array(facts, pa.string()) if isinstance(facts, list) else pc.cast(facts, pa.string())]
    return pa.record_batch([*columns, pa.array(starts_N[place_N]), pa.array(place_N.astype(np.int32))], schema=_SCHEMA)


def _file(batches: Sequence[pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as file:
        for batch in batches:
            file.write_batch(batch)
    return bytes(sink.getvalue())
