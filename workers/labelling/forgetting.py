"""Forgetting samples: what is stored of them goes, their places stay. By a committer of a term of its own; asks no teacher.

Their shards are put again with placeholders; one record says that these count from now on and that the rows weigh nothing; then the old
bytes are deleted. A crash before the record leaves everything as it was, one after it leaves old bytes: each call begins with deleting
those, since what lies there can't be found by its id any more. The index of known contents goes before the record, whole; the next run
makes it again from the shards.
"""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.labels.entries import Commit, Entry, QuarantinedRow, Repair
from pipeline.labels.garbage import Garbage, garbage
from pipeline.labels.known.index import KNOWN
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.placeholders import placeholders_of, replaced
from pipeline.labels.rowspace import plan_of
from pipeline.labels.shard import SHARDS, Shard, put_shard, read_shard, shard_bytes
from pipeline.labels.state import LogState
from pipeline.labels.store import LocalStore, MappedStore, Store
from pipeline.labels.stored import NothingLabelledError
from workers.labelling.committer import shard_key, tombstones

REASON = "forgotten on request"
REMOVE = "take it out of its source, so that nobody labels it"

Found = dict[int, NDArray[np.int64]]
"""Number of a commit -> places in its shard, ascending."""


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What came of it."""

    rows: tuple[int, ...]
    """Global rows whose content went."""
    before: tuple[int, ...]
    """Rows that were asked for and had been forgotten already."""
    shards: int
    """Written anew."""
    objects: int
    """Shards, whole or half-written, that were deleted, with what an earlier call had left."""
    bytes: int
    """Of those."""


def forget(store: Store, *, samples: Collection[str], rows: Collection[int], holder: str, nonce: str, now_unix_s: float) -> Forgotten:
    """Forget all samples of these ids, and those at these global rows: all or none.

    To be called while nobody labels. Raises NothingLabelledError; ConfigError for an id that no label has and for a row without a label;
    ShardCorruptError for a bad shard on the way, which may hold one of them; FencedError if somebody takes the log over meanwhile.
    """
    state = LogReader(store).refresh()
    if not state.rows_kept:
        raise NothingLabelledError
    writer = LogWriter.open(store, holder=holder, classes=state.classes, nonce=nonce, now_unix_s=now_unix_s)
    left = _delete_lost(store, writer.state, now_unix_s)
    found = _found(store, writer.state, frozenset(samples), frozenset(rows))
    entries, gone, before = list[Entry](), list[int](), list[int]()
    for number, places in found.items():
        repair, forgotten, known = _without(store, writer, writer.state.commits[number], places)
        entries += [*repair, *tombstones([QuarantinedRow(row=row, reason=REASON) for row in forgotten])]
        gone, before = gone + forgotten, before + known
    shards = sum(isinstance(entry, Repair) for entry in entries)
    deleted = [left]
    if entries:
        store.delete(*store.list(KNOWN))
        writer.queue(entries)
        writer.flush(now_unix_s=now_unix_s)
        deleted.append(_delete_lost(store, writer.state, now_unix_s))
    writer.write_head()
    return Forgotten(
        rows=tuple(sorted(gone)),
        before=tuple(sorted(before)),
        shards=shards,
        objects=sum(some.objects for some in deleted),
        bytes=sum(some.bytes for some in deleted),
    )


def _delete_lost(store: Store, state: LogState, now_unix_s: float) -> Garbage:
    """Delete all that is left of shards that nobody can need, however young: the one who opened the log last is the only writer."""
    found = dataclasses.replace(garbage(store, state, now_unix_s=now_unix_s), log={}, unfinished=_unfinished(store))
    found.delete_from(store)
    return found


def _unfinished(store: Store) -> dict[str, int]:
    """Half-written files of samples. Others stay: one of them may be a heartbeat that is written now."""
    if not isinstance(store, LocalStore):
        return {}
    return {name: size for name, size in store.unfinished(math.inf).items() if name.startswith((SHARDS, KNOWN))}


def _found(store: Store, state: LogState, samples: frozenset[str], rows: frozenset[int]) -> Found:
    """Where they are. An id may be in many places, so every shard is looked at; a row is in one."""
    for row in sorted(rows):
        _refuse_unlabelled(state, row)
    wanted, found = pa.array(sorted(samples), pa.string()), Found()
    missing, example, rows_left = set(samples), "", set(rows)
    for number, commit in enumerate(state.kept_commits(), start=state.dropped_commits):
        here = {row for row in rows_left if commit.start <= row < commit.stop}
        if not samples and not here:
            continue
        table = read_shard(store, state.shard_of(commit)).table
        called_N = pc.is_in(table["sample_id"], value_set=wanted).to_numpy()
        asked_N = np.isin(table["row"].to_numpy(), list(here))
        rows_left -= set(table["row"].to_numpy()[asked_N].tolist())  # a row that was retried lies in a later shard than its neighbours
        places = np.flatnonzero(called_N | asked_N)
        if len(places):
            found[number] = places
        missing -= set(pc.unique(table["sample_id"].filter(pa.array(called_N))).to_pylist())
        example = example or table["sample_id"][0].as_py()
    if missing:
        raise ConfigError(
            "--sample",
            f"no labelled sample {min(missing)!r}",
            f"an id like {example!r}",
            f"if it is not labelled yet, {REMOVE}; one that was forgotten has no id here any more",
        )
    return found


def _refuse_unlabelled(state: LogState, row: int) -> None:
    """Raises ConfigError that says why there is no label at the row, and what to do."""
    if not 0 <= row < state.rows_planned:
        raise ConfigError("--row", f"no row {row}", f"0 to {state.rows_planned - 1}, as planned", "`kdpipe labels ls DIR` lists the parts")
    if state.set_aside.overlaps(row, row + 1):
        raise ConfigError("--row", f"row {row} is quarantined and has no label", "a row with a label", REMOVE)
    if not state.done.overlaps(row, row + 1):
        raise ConfigError("--row", f"row {row} is planned and not labelled yet", "a row with a label", REMOVE)
    if not any(commit.start <= row < commit.stop for commit in state.kept_commits()):
        raise ConfigError(
            "--row", f"row {row} was labelled and its label dropped by the retention policy", "a row that is kept", "nothing is left of it"
        )


def _without(store: Store, writer: LogWriter, commit: Commit, places: NDArray[np.int64]) -> tuple[list[Repair], list[int], list[int]]:
    """(the repair with placeholders there, stored and not in the log yet; rows it forgets; rows of which nothing was left)."""
    state = writer.state
    shard = read_shard(store, state.shard_of(commit))
    rows_P = shard.table["row"].to_numpy()[places]
    placeholders = placeholders_of(shard, plan_of(state.plans, commit.start), places)
    is_new_P = ~(state.tombstoned.mask(rows_P) & _are_there(shard, places, placeholders))
    known = rows_P[~is_new_P].tolist()
    if not is_new_P.any():
        return [], [], known
    batch = replaced(shard.table, places[is_new_P], placeholders.filter(pa.array(is_new_P)))
    key = shard_key(commit.start, commit.stop, term=writer.term, attempt=next(writer.attempts))
    ref = put_shard(store, key, shard_bytes(batch, compressed=not isinstance(store, MappedStore)), rows=len(batch))
    return [Repair(shard=commit.shard.key, by=ref, teacher=shard.teacher)], rows_P[is_new_P].tolist(), known


def _are_there(shard: Shard, places: NDArray[np.int64], placeholders: pa.Table) -> NDArray[np.bool_]:
    """Which of the placeholders are in their places already."""
    there = shard.table.select(placeholders.schema.names).take(pa.array(places))
    return np.array([there.slice(at, 1).equals(placeholders.slice(at, 1)) for at in range(len(places))], dtype=np.bool_)
