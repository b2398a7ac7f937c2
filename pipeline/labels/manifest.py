"""Manifests: what the log adds up to at one record, so that opening a log reads a manifest and the records after it.

    log/manifests/{stop_seq}.json       the state before record `stop_seq`, and the segments that hold the facts; put once
    log/segments/{first}-{stop}-{term}.arrow

The one with the highest `stop_seq` counts. It says nothing that the records did not say: whoever folds the records comes to the same
state. Records and segments that a newer manifest made superfluous are `retired` in it, and go a grace later, for the sake of readers
that opened the log before. A crash between a segment and its manifest leaves an object that nothing names; the next filing removes it.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from pipeline.labels.entries import Count, Fact, LogUnreadableError, Reinstate, ShardRef, Supersede, record_key
from pipeline.labels.intervals import Intervals, Run
from pipeline.labels.segments import KINDS, Filed, Segment, SegmentRef, Segments, encode_segment, merged, open_segment
from pipeline.labels.state import LogState
from pipeline.labels.store import ObjectMissingError, Store

MANIFESTS, SEGMENTS = "log/manifests/", "log/segments/"
FILE_FACTS = 1000
"""A tail of so many facts becomes a segment."""
SEGMENT_MAX_FACTS = 1 << 16
SEGMENT_MAX_BYTES = 64 * 2**20
"""Segments are merged up to here: a look-up reads no more."""
GRACE_S = 3600.0
RUNS = ("done", "set_aside", "tombstoned")
"""Sets of rows in a state."""


class Retired(Fact):
    """What one manifest made superfluous: the records [first_seq, stop_seq), and objects by key."""

    first_seq: Count
    stop_seq: Count
    keys: tuple[str, ...]
    at_unix_s: float


class Summary(Fact):
    """A `LogState` without its histories; its fields are named as there."""

    next_seq: Count
    log: str
    term: Count
    holder: str
    classes: tuple[str, ...]
    repairs: Mapping[str, ShardRef]
    ends: Mapping[int, Count]
    rows_at_end: Count
    floors: Mapping[int, Count]
    dropped_windows: Count
    dropped_commits: Count
    swept_term: Count
    swept_commits: Count
    commits_at_term: Mapping[int, Count]
    teachers: frozenset[str]
    done: tuple[Run, ...]
    set_aside: tuple[Run, ...]
    tombstoned: tuple[Run, ...]
    superseded: tuple[Annotated[Supersede | Reinstate, Field(discriminator="kind")], ...]
    rows_labelled: Count
    rows_reused: Count
    commit_times: Mapping[int, tuple[float, float]]
    void_commits: Count


class Manifest(Fact):
    """One manifest."""

    version: Literal[1] = 1
    state: Summary
    segments: tuple[SegmentRef, ...]
    retired: tuple[Retired, ...] = ()

    @property
    def key(self) -> str:
        return manifest_key(self.state.next_seq)

    def encode(self) -> bytes:
        """JSON and, on a line of its own, its crc32."""
        data = self.model_dump_json().encode()
        return data + f"\n{zlib.crc32(data):08x}\n".encode()

    @classmethod
    def decode(cls, data: bytes, *, key: str) -> Self:
        """Raises LogUnreadableError."""
        text, _, checksum = data.rstrip(b"\n").rpartition(b"\n")
        if checksum != f"{zlib.crc32(text):08x}".encode():
            raise LogUnreadableError(key, "its checksum is wrong")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise LogUnreadableError(key, error.errors(include_url=False)[0]["msg"].lower()) from error


def manifest_key(stop_seq: int) -> str:
    return f"{MANIFESTS}{stop_seq:020d}.json"


def newest_manifest(store: Store) -> Manifest | None:
    """Raises LogUnreadableError."""
    for key in reversed(list(store.list(MANIFESTS))):
        try:
            return Manifest.decode(store.get(key), key=key)
        except ObjectMissingError:
            continue  # went since it was listed; a newer one is there
    return None


def state_of(store: Store, manifest: Manifest) -> LogState:
    """The state at the manifest; its histories read from segments when they are looked at."""
    summary = {name: getattr(manifest.state, name) for name in Summary.model_fields}
    summary |= {name: Intervals(summary[name]) for name in RUNS}
    return rebased(LogState(**summary), store, manifest)


def rebased(state: LogState, store: Store, manifest: Manifest) -> LogState:
    """The same state, with the manifest's facts out of memory. The manifest must not be ahead of the state."""
    segments = _segments(store, manifest)
    filed = {kind: getattr(state, kind).rebased(Filed(segments, kind, count)) for kind, count in _counts(manifest.segments).items()}
    return replace(state, segments=segments, **filed)


def is_due(state: LogState) -> bool:
    """Whether the tail is worth a segment: long, also against what else a manifest has to say."""
    return facts_in_memory(state) >= max(FILE_FACTS, (state.done.runs + state.set_aside.runs) // 4)


def facts_in_memory(state: LogState) -> int:
    return sum(getattr(state, kind).in_memory for kind in KINDS)


def file_tail(store: Store, state: LogState, before: Manifest | None, *, now_unix_s: float) -> Manifest:
    """Make the tail of `state` a segment, merge the smaller ones before it into it, and put the manifest that says so.

    First removes what was retired long enough ago. May be called again after any exception.
    """
    _remove(store, [retired for retired in before.retired if _is_over(retired, now_unix_s)] if before else ())
    old = before.segments if before else ()
    first_seq = before.state.next_seq if before else 0
    tail = {kind: getattr(state, kind).tail(count) for kind, count in _counts(old).items()}
    kept, segment = _merge(store, old, tail, f"{SEGMENTS}{first_seq:020d}-{state.next_seq:020d}-{state.term}.arrow")
    gone = [ref.key for ref in old[len(kept) :]] + ([before.key] if before else [])
    retired = Retired(first_seq=first_seq, stop_seq=state.next_seq, keys=tuple(gone), at_unix_s=now_unix_s)
    manifest = Manifest(
        state=_summary(state),
        segments=(*kept, segment),
        retired=(*(older for older in (before.retired if before else ()) if not _is_over(older, now_unix_s)), retired),
    )
    if not store.put_if_absent(manifest.key, manifest.encode()):
        return Manifest.decode(store.get(manifest.key), key=manifest.key)  # an earlier try of ours arrived
    _remove_unnamed(store, manifest)
    return manifest


def _merge(
    store: Store, old: Sequence[SegmentRef], tail: Mapping[str, Sequence[Any]], key: str
) -> tuple[tuple[SegmentRef, ...], SegmentRef]:
    """(segments that stay, the new one, which is stored).

    It takes in those before it that are no larger, as a binary counter carries: a fact is written log2(SEGMENT_MAX_FACTS / FILE_FACTS)
    times more at most, however long the log.
    """
    data, facts, kept = encode_segment(tail), sum(map(len, tail.values())), list(old)
    size, taken = len(data), list[SegmentRef]()
    while kept and kept[-1].facts <= facts <= SEGMENT_MAX_FACTS - kept[-1].facts and size + kept[-1].bytes <= SEGMENT_MAX_BYTES:
        taken.insert(0, kept.pop())
        facts, size = facts + taken[0].facts, size + taken[0].bytes
    if taken:
        data = merged([*(open_segment(store, ref) for ref in taken), Segment(data, key=key)])
    store.put(key, data)
    rows = [(commit.start, commit.stop) for commit in tail["commits"]]
    rows += [(ref.first_row, ref.stop_row) for ref in taken if ref.counts["commits"]]
    ref = SegmentRef(
        key=key,
        bytes=len(data),
        crc32=zlib.crc32(data),
        counts={kind: len(tail[kind]) + sum(ref.counts[kind] for ref in taken) for kind in KINDS},
        first_row=min((first for first, _ in rows), default=0),
        stop_row=max((stop for _, stop in rows), default=0),
    )
    return tuple(kept), ref


def _counts(segments: Iterable[SegmentRef]) -> dict[str, int]:
    listed = list(segments)
    return {kind: sum(ref.counts[kind] for ref in listed) for kind in KINDS}


def _segments(store: Store, manifest: Manifest) -> Segments:
    def newest() -> Sequence[SegmentRef]:
        found = newest_manifest(store)
        return found.segments if found else ()

    return Segments(store, manifest.segments, newest=newest)


def _summary(state: LogState) -> Summary:
    plain = {name: getattr(state, name) for name in Summary.model_fields}
    return Summary(**plain | {name: tuple(plain[name]) for name in RUNS})


def _is_over(retired: Retired, now_unix_s: float) -> bool:
    return now_unix_s - retired.at_unix_s >= GRACE_S


def _remove(store: Store, retired: Iterable[Retired]) -> None:
    for old in retired:
        store.delete(*(record_key(seq) for seq in range(old.first_seq, old.stop_seq)), *old.keys)


def _remove_unnamed(store: Store, manifest: Manifest) -> None:
    """Delete what filings left that crashed or were overtaken. Never what a newer term may have made: this one may be fenced already."""
    named = {*(ref.key for ref in manifest.segments), *(key for retired in manifest.retired for key in retired.keys)}
    for key in store.list(SEGMENTS):
        if key not in named and int(key.removesuffix(".arrow").rpartition("-")[2]) < manifest.state.term:
            store.delete(key)
    for key in store.list(MANIFESTS):
        if key not in named and key < manifest.key:
            store.delete(key)
