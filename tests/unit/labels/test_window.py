"""A window's columns as matrices: where they are some, and that rows taken of them are the rows that Arrow takes."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.labels.window import matrix_of

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(list(ROWS)),
        pa.array([np.zeros(2, np.float32), *ROWS]).slice(1),
        pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 3),
        pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([ROWS.reshape(-1)] * 2)), 3).slice(4),
    ],
    ids=["lists", "a slice", "lists of one length", "a slice of those"],
)
def test_lists_of_one_length_are_a_matrix_over_the_same_memory(column: pa.Array) -> None:
    found = matrix_of(pa.chunked_array([column]))
    assert found is not None
    np.testing.assert_array_equal(found, ROWS)
    assert not found.flags.owndata


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a text", "another"]),
        pa.array([[1.0], [1.0, 2.0]]),
        pa.array([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]),
        pa.array([[1.0], None]),
        pa.array([[1.0], [None]]),
        pa.array([["a"], ["b"]]),
        pa.array([[True], [False]]),
        pa.array([[], []], pa.list_(pa.float32())),
        pa.array([], pa.list_(pa.float32())),
    ],
)
def test_other_columns_are_none(column: pa.Array) -> None:
    assert matrix_of(pa.chunked_array([column])) is None
