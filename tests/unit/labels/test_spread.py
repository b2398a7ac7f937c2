"""How the evidence of stored labels is spread: every row that counts is counted once, and a shard that is bad is named."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.log import LogReader
from pipeline.labels.spread import BINS, _Tally, evidence_spread
from pipeline.labels.stored import StoredLabels
from tests.kit.labelling import Bench, MemorySource
from tests.kit.stores import MemoryStore

TEXTS = [f"text {number}" for number in range(40)]


def labelled() -> MemoryStore:
    store = MemoryStore()
    Bench(store, MemorySource({"a": TEXTS})).run()
    return store


def test_nothing_is_labelled_yet() -> None:
    assert evidence_spread(MemoryStore()) is None


def test_every_label_is_counted_once_where_its_evidence_says() -> None:
    store = labelled()
    heard: list[tuple[int, int]] = []
    found = evidence_spread(store, progress=lambda done, rows: heard.append((done, rows)))
    assert found is not None
    stored = StoredLabels(store).first(100)
    assert found.rows == found.entropy_nats.total == found.margin.total == len(stored) == 40
    edges = np.linspace(0, found.margin.high, len(found.margin.counts) + 1)
    margins = np.array([sample.margin for sample in stored])
    assert np.abs(np.cumsum(np.histogram(margins, edges)[0]) - np.cumsum(found.margin.counts)).max() <= 1, "but for one on an edge"
    assert found.disagreement_nats is None
    assert found.agreement is not None
    assert found.agreement.total == sum(sample.agreement is not None for sample in stored)
    assert found.same_class == sum(sample.label == sample.top[0][0] for sample in stored)
    assert heard[-1] == (40, 40)


def test_a_row_that_was_forgotten_does_not_count() -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": TEXTS}))
    bench.run()
    key = LogReader(store).refresh().commits[0].shard.key
    store.put(key, b"gone")
    bench.source.texts["a"] = ["poison"] * len(TEXTS)
    bench.labelling().repair(frozenset({key}), progress=lambda _: None, stop=threading.Event())
    found = evidence_spread(store)
    assert found is not None
    counting = [sample for sample in StoredLabels(store).first(100) if sample.weight]
    assert found.rows == found.margin.total == len(counting) < 40


def test_a_bad_shard_is_named_and_the_others_count() -> None:
    store = labelled()
    state = LogReader(store).refresh()
    first = state.commits[0]
    store.delete(state.shard_of(first).key)
    found = evidence_spread(store)
    assert found is not None
    assert found.rows == 40 - first.shard.rows
    (named,) = found.unreadable
    assert state.shard_of(first).key in named


@given(values=st.lists(st.floats(0, 2, width=32), max_size=60))
def test_bins_hold_every_value_and_reach_no_further_than_needed(values: list[float]) -> None:
    tally = _Tally(2.0)
    tally.add(np.array([*values, np.nan], dtype=np.float32))
    found = tally.histogram()
    assert found.total == len(values)
    assert 1 <= len(found.counts) <= BINS
    assert found.high >= max(values, default=0.0) - 2 / 960
    if values:
        assert found.counts[-1], "the last bin is used"
