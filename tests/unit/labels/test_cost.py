"""What labels cost, by the log."""

import pytest

from pipeline.labels.cost import labels_cost
from pipeline.labels.log import LogReader
from pipeline.labels.state import LogState
from tests.kit.labelling import Bench, MemorySource
from tests.kit.stores import MemoryStore


def test_generations_and_teachers_each_add_up_to_the_whole():
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": [f"a {number}" for number in range(50)]}))
    bench.run(1)
    bench.source.texts["b"] = [f"b {number}" for number in range(20)]
    bench.run(2)
    found = labels_cost(LogReader(store).refresh())
    assert [(spent.of, spent.rows) for spent in found.generations] == [("generation 1", 50), ("generation 2", 20)]
    for parts in (found.generations, found.teachers):
        assert sum(spent.rows for spent in parts) == found.rows == 70
        assert sum(spent.teacher_s for spent in parts) == pytest.approx(found.teacher_s)


def test_an_empty_log_cost_nothing():
    found = labels_cost(LogState())
    assert (found.rows, found.teacher_s, found.generations, found.teachers) == (0, 0, (), ())
