"""A draw of samples: the same ones wherever they stand, and not the first of a sorted file."""

import numpy as np

from pipeline.students.drawing import drawn
from pipeline.students.samples import Samples, part_of


def samples(rows: np.ndarray) -> Samples:
    return Samples(
        ids=tuple(f"s:{row}" for row in rows), inputs=tuple((float(row),) for row in rows), hard_N=np.zeros(len(rows), dtype=np.int64)
    )


def test_the_order_of_a_file_does_not_matter_to_who_is_drawn_and_few_are_taken_as_they_stand() -> None:
    rows = np.arange(600)
    found = drawn(samples(rows), 256)
    shuffled = drawn(samples(np.random.default_rng(1).permutation(rows)), 256)
    assert len(found) == 256
    assert set(found.ids) == set(shuffled.ids)
    assert found.inputs == tuple(sorted(found.inputs))
    few = samples(rows[:16])
    assert drawn(few, 16) is few


def test_of_a_sorted_file_every_part_is_drawn_in_proportion_within_one_part_of_validation_too() -> None:
    rows = np.array([row for row in range(4000) if part_of(f"s:{row}") == "fit"])
    drawn_rows = np.array([value for (value,) in drawn(samples(rows), 256).inputs])
    assert 0.4 < np.mean(drawn_rows < np.median(rows)) < 0.6
