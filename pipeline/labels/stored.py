"""Committed samples one by one, with the teacher's answer, its evidence and their place in the log. Reads only.

A shard is looked at whole, checked, and let go again, so memory does not grow with the log. What is shown of an answer is what was
recorded of it: a sparse codec's tail stays one number.
"""

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, DataError
from pipeline.labels.codecs import DenseFp16
from pipeline.labels.embedding import embeddings_of
from pipeline.labels.log import LogReader
from pipeline.labels.quarantine import in_force
from pipeline.labels.rowspace import part_rows, plan_of
from pipeline.labels.shard import Shard, read_shard
from pipeline.labels.state import LogState
from pipeline.labels.store import Store

COLUMNS = ("sample_id", "input", "label", "entropy", "margin", "disagreement", "agreement")
"""Of a shard: what there is to know of a sample beside its answer."""


class NothingLabelledError(DataError):
    """No label is committed yet."""

    def __str__(self) -> str:
        return (
            "nothing is labelled yet; expected at least one committed shard; `kdpipe run` labels, `kdpipe labels ls DIR` says how far it is"
        )


class NoReferenceError(DataError):
    """The stored labels are what a lossy codec left of the teacher's answers; no other codec can be held against them."""

    def __init__(self, codec: str) -> None:
        super().__init__(codec)
        self.codec = codec

    def __str__(self) -> str:
        return (
            f"the labels there were stored with the codec {self.codec}, which keeps a part of each answer; expected dense_fp16; "
            "`kdpipe labels advise RUNFILE` asks the teacher about a probe instead"
        )


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """One committed sample."""

    row: int
    """Global row number."""
    sample_id: str
    part: str
    """Name of the source's part it was read from."""
    input: Any
    """Text, or a list of numbers."""
    top: tuple[tuple[str, float], ...]
    """The likeliest of the recorded classes, with their probabilities."""
    recorded: int
    """Classes that the codec kept of this answer."""
    tail: float
    """Probability of all classes that it did not keep."""
    label: str | None
    """The source's own."""
    entropy: float
    """Nats, of the answer before it was encoded; so is the margin."""
    margin: float
    disagreement: float | None
    agreement: float | None
    """The teacher's probability of `label`, where that is one of the classes."""
    embedding: list[float] | None
    """What the teacher sees in the input, where that is kept."""
    weight: float
    """1, or 0 for a sample that was forgotten or whose file was replaced: as the next generation has it."""
    window: int | None
    """None while no window is sealed around it."""
    shard: str
    teacher: str
    codec: str


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A row without a label, and none to come."""

    row: int
    part: str
    """Name of the source's part."""
    part_row: int
    """Row within the part, from 0."""
    reason: str


def set_aside(state: LogState) -> Iterator[SetAside]:
    """Every quarantined row, in the order of the log; without those that were retried."""
    for quarantine in in_force(state):
        plan = plan_of(state.plans, quarantine.start)
        rows_N = np.arange(quarantine.start, quarantine.stop)
        for row, part_row in zip(rows_N.tolist(), part_rows(plan, rows_N), strict=True):
            yield SetAside(row=row, part=plan.name, part_row=part_row, reason=quarantine.reason)


class StoredLabels:
    """The labels of a store as they are now. Methods give samples in the order of the log and raise ShardCorruptError."""

    def __init__(self, store: Store, *, top: int = 3) -> None:
        """`top` is how many classes to name. Raises NothingLabelledError."""
        self._store, self._top = store, top
        self._state = LogReader(store).refresh()
        self._weightless = self._state.weightless()
        if not self._state.rows_kept:
            raise NothingLabelledError

    def first(self, rows: int) -> list[StoredSample]:
        """The first of the log."""
        return list(islice((s for at, shard in self._shards() for s in self._samples(at, shard, range(len(shard.table)))), rows))

    def at(self, row: int) -> StoredSample:
        """The sample at a global row. Raises ConfigError that says why a row has no label."""
        state = self._state
        if not 0 <= row < state.rows_planned:
            raise ConfigError(
                "--row", f"no row {row}", f"0 to {state.rows_planned - 1}, as planned", "`kdpipe labels ls DIR` lists the parts"
            )
        for bad in in_force(state):
            if bad.start <= row < bad.stop:
                raise ConfigError(
                    "--row",
                    f"row {row} is quarantined: {bad.reason}",
                    "a row with a label",
                    "`kdpipe labels ls DIR --quarantined` lists them, `kdpipe labels retry DIR` asks for them again",
                )
        for at, commit in enumerate(state.kept_commits(), start=state.dropped_commits):
            if commit.start <= row < commit.stop:
                shard = read_shard(self._store, state.shard_of(commit))
                places = np.flatnonzero(shard.table["row"].to_numpy() == row)
                if len(places):  # a row that was retried lies in a later shard than its neighbours, or in none yet
                    return next(self._samples(at, shard, places.tolist()))
        if state.done.overlaps(row, row + 1):
            raise ConfigError("--row", f"row {row} was labelled and its label dropped by the retention policy", "a row that is kept")
        raise ConfigError("--row", f"row {row} is planned and not labelled yet", "a row with a label", "`kdpipe run` goes on labelling")

    def called(self, sample_id: str) -> list[StoredSample]:
        """All samples of that id; the user's own ids may repeat. Raises ConfigError if there is none."""
        found: list[StoredSample] = []
        for at, shard in self._shards():
            same = pc.equal(shard.table["sample_id"], pa.scalar(sample_id, pa.string())).to_numpy()
            found += self._samples(at, shard, np.flatnonzero(same).tolist())
        if not found:
            example = next(iter(self.first(1))).sample_id
            raise ConfigError(
                "--sample", f"no labelled sample {sample_id!r}", f"an id like {example!r}", "`kdpipe labels show DIR` shows some"
            )
        return found

    def of_class(self, name: str, rows: int) -> list[StoredSample]:
        """The first samples to which the teacher gives this class before all others. Raises ConfigError that names the classes."""
        if name not in self._state.classes:
            raise ConfigError("--class", f"no class {name!r}", f"one of: {', '.join(self._state.classes)}")
        number = self._state.classes.index(name)
        found = (s for at, shard in self._shards() for s in self._samples(at, shard, self._weighing(shard, _likeliest(shard) == number)))
        return list(islice(found, rows))

    def least_sure(self, rows: int) -> list[StoredSample]:
        """Those of least margin between the two likeliest classes, least first."""
        found = (s for at, shard in self._shards() for s in self._samples(at, shard, self._closest(shard, rows)))
        return heapq.nsmallest(rows, found, key=lambda sample: (sample.margin, sample.row))

    def reference(self, rows: int) -> NDArray[np.float32]:
        """float32 [at most `rows`, K], what the teacher said first in the log, up to the first shard of a lossy codec.

        To hold codecs against; without forgotten samples. Raises NoReferenceError, NothingLabelledError where none is left.
        """
        found: list[NDArray[np.float32]] = []
        left = rows
        for _, shard in self._shards():
            lossy = not isinstance(shard.codec, DenseFp16)
            if lossy and not found:
                raise NoReferenceError(shard.codec.name)
            if lossy or not left:
                break
            places = self._weighing(shard, np.ones(len(shard.table), dtype=np.bool_))[:left]
            if places:
                found.append(shard.log_probs(np.array(places, dtype=np.int64)))
                left -= len(places)
        if not found:
            raise NothingLabelledError
        return np.concatenate(found)

    def _shards(self) -> Iterator[tuple[int, Shard]]:
        """(place of the commit in the log, its shard)."""
        for at, commit in enumerate(self._state.kept_commits(), start=self._state.dropped_commits):
            yield at, read_shard(self._store, self._state.shard_of(commit))

    def _weighing(self, shard: Shard, wanted_N: NDArray[np.bool_]) -> list[int]:
        """Places of the wanted rows, without those that were forgotten: what stands there is no answer."""
        return np.flatnonzero(wanted_N & ~self._state.tombstoned.mask(shard.table["row"].to_numpy())).tolist()

    def _closest(self, shard: Shard, rows: int) -> list[int]:
        places = self._weighing(shard, np.ones(len(shard.table), dtype=np.bool_))
        margins_N = shard.table["margin"].to_numpy()
        return sorted(places, key=lambda place: float(margins_N[place]))[:rows]

    def _samples(self, at: int, shard: Shard, places: Iterable[int]) -> Iterator[StoredSample]:
        state, commit = self._state, self._state.commits[at]
        window = bisect_right(state.windows, at, key=lambda seal: seal.stop_commit)
        for place in places:
            (stored,) = shard.table.slice(place, 1).select(("row", *COLUMNS)).to_pylist()
            recorded = shard.sparse(slice(place, place + 1))
            ids_R, probs_R = recorded.ids_NR[0], np.exp(recorded.log_probs_NR[0])
            top = np.argsort(-probs_R, kind="stable")[: self._top]
            row = stored.pop("row")
            seen_1D = embeddings_of(shard.table.slice(place, 1))
            yield StoredSample(
                **stored,
                row=row,
                part=plan_of(state.plans, row).name,
                top=tuple((shard.classes[ids_R[place]], float(probs_R[place])) for place in top.tolist() if probs_R[place] > 0),
                recorded=int((probs_R > 0).sum()),
                tail=float(np.exp(recorded.tail_N[0])),
                embedding=None if seen_1D is None else seen_1D[0].tolist(),
                weight=0.0 if self._weightless.overlaps(row, row + 1) else 1.0,
                window=window if window < len(state.windows) else None,
                shard=state.shard_of(commit).key,
                teacher=shard.teacher,
                codec=shard.codec.name,
            )


def _likeliest(shard: Shard) -> NDArray[np.int64]:
    """Of each row, the likeliest recorded class."""
    recorded = shard.sparse()
    best_N1 = recorded.log_probs_NR.argmax(axis=1)[:, None]
    return np.asarray(np.take_along_axis(recorded.ids_NR, best_N1, axis=1)[:, 0], dtype=np.int64)
