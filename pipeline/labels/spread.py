"""How the evidence of all stored labels is spread: entropy, margin, disagreement, and the teacher's probability of the hard label.

One pass over the shards, each looked at whole, checked and let go again: memory does not grow with the log. Rows that were forgotten
or whose file was replaced do not count. A shard that cannot be read is named and left out. Reads only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.labels.log import LogReader
from pipeline.labels.shard import Shard, ShardCorruptError, ShardUnknownError, read_shard
from pipeline.labels.store import Store

FINE = 960
BINS = 24
"""Shown, of the values up to the largest one that occurs."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of equal bins from 0 to `high`."""

    high: float
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class EvidenceSpread:
    """What the labels of a log say of their own quality. None: no label has it."""

    rows: int
    entropy_nats: Histogram
    margin: Histogram
    disagreement_nats: Histogram | None
    agreement: Histogram | None
    """Probability that the teacher gives to the source's hard label."""
    same_class: int
    """Rows whose hard label is the teacher's first class, of `agreement.total`."""
    unreadable: tuple[str, ...]


@dataclass
class _Tally:
    """Counts in fine bins, joined once it is known how far they reach."""

    high: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(FINE, dtype=np.int64))

    def add(self, values: NDArray[np.floating]) -> None:
        values = values[np.isfinite(values)]
        place = np.clip((values / self.high * FINE).astype(np.int64), 0, FINE - 1)
        self.counts += np.bincount(place, minlength=FINE)

    def histogram(self) -> Histogram:
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else FINE
        width = -(-used // BINS)
        joined = np.add.reduceat(self.counts, np.arange(0, FINE, width))[: -(-used // width)]
        return Histogram(high=self.high * width * len(joined) / FINE, counts=tuple(joined.tolist()))

    def histogram_if_any(self) -> Histogram | None:
        return self.histogram() if self.counts.any() else None


def evidence_spread(store: Store, *, progress: Callable[[int, int], None] = lambda done, rows: None) -> EvidenceSpread | None:
    """None while nothing is labelled. `progress` hears (rows done, rows)."""
    state = LogReader(store).refresh()
    if not state.rows_kept:
        return None
    weightless, nats = state.weightless(), float(np.log(max(2, len(state.classes))))
    tallies = {name: _Tally(high) for name, high in (("entropy", nats), ("margin", 1.0), ("disagreement", nats), ("agreement", 1.0))}
    rows = same = seen = 0
    unreadable = []
    for commit in state.kept_commits():
        seen += commit.shard.rows
        try:
            shard = read_shard(store, state.shard_of(commit))
        except (ShardCorruptError, ShardUnknownError) as error:
            unreadable.append(str(error))
            continue
        weighing_N = ~weightless.mask(shard.table["row"].to_numpy())
        for name, tally in tallies.items():
            tally.add(shard.table[name].cast("float32").to_numpy()[weighing_N])
        rows += int(weighing_N.sum())
        same += int((_is_first_class(shard) & weighing_N).sum())
        progress(seen, state.rows_kept)
    return EvidenceSpread(
        rows=rows,
        entropy_nats=tallies["entropy"].histogram(),
        margin=tallies["margin"].histogram(),
        disagreement_nats=tallies["disagreement"].histogram_if_any(),
        agreement=tallies["agreement"].histogram_if_any(),
        same_class=same,
        unreadable=tuple(unreadable),
    )


def _is_first_class(shard: Shard) -> NDArray[np.bool_]:
    """Rows whose hard label is the likeliest class."""
    recorded = shard.sparse()
    best_N1 = recorded.log_probs_NR.argmax(axis=1)[:, None]
    first_N = np.take_along_axis(recorded.ids_NR, best_N1, axis=1)[:, 0]
    label_N = pc.index_in(shard.table["label"], value_set=pa.array(shard.classes)).fill_null(-1).to_numpy()
    return np.asarray(label_N == first_N, dtype=np.bool_)
