"""A student's inputs from a batch of labels: the same numbers as a device encodes, however they lie in memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.inputs import InputShapeError, encode
from pipeline.labels.reader import LabelBatch
from pipeline.labels.window import wide
from pipeline.students.lessons import inputs_of
from pipeline.students.models import build_student
from tests.kit.students import numbers, reader_of, spec

VALUES = np.arange(20, dtype=np.float32).reshape(5, 4)
LAYOUTS = {
    "lists": pa.array(list(VALUES)),
    "a slice of lists": pa.array(list(np.concatenate([VALUES - 9, VALUES]))).slice(5),
    "lists of one length": pa.FixedSizeListArray.from_arrays(pa.array(VALUES.reshape(-1)), 4),
    "doubles": pa.array(VALUES.astype(np.float64).tolist()),
    "whole numbers": pa.array(VALUES.astype(int).tolist()),
}


def inputs(array: pa.Array) -> Any:
    reader = reader_of(numbers(5))
    batch = reader.read(reader.start())
    assert isinstance(batch, LabelBatch)
    student = build_student(spec(use="mlp", options={"features": 4}, kind="floats"))
    return inputs_of(replace(batch, given=wide(pa.chunked_array([array]))), student, seed=1, epoch=0, start=0, rank=0, world=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_are_those_that_a_device_encodes(layout: str) -> None:
    found = inputs(LAYOUTS[layout])
    np.testing.assert_array_equal(found, encode(VALUES.tolist(), kind="floats", width=4))
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[1.0, 2, 3, 4], [1.0, 2, 3]], "input 1: shape"),
        ([[1.0, 2, 3, 4, 5], [1.0, 2, 3]], "input 0: shape"),
        ([[1.0, 2, float("nan"), 4]], "input 0: a value that is not finite"),
        ([[1.0, 2, None, 4]], "input 0: a value that is not finite"),
        ([[1.0, 2, 3, 4], None], "input 1"),
    ],
)
def test_a_row_that_is_no_such_vector_is_named(rows: list[Any], says: str) -> None:
    with pytest.raises(InputShapeError, match=says):
        inputs(pa.array(rows, pa.list_(pa.float32())))
