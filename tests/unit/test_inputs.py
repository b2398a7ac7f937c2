"""Encoding: the same bytes in the trainer and on a device, whatever the text."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs import InputShapeError, as_read, encode, floats_to_array, text_to_bytes


@given(text=st.text(max_size=60), width=st.integers(1, 80))
def test_text_becomes_its_utf8_bytes_cut_or_padded_with_zeros(text: str, width: int) -> None:
    row = text_to_bytes([text], max_bytes=width)[0]
    data = text.encode("utf-8", "replace")[:width]
    assert bytes(row) == data.ljust(width, b"\0")
    assert row.dtype == np.uint8


@given(texts=st.lists(st.text(max_size=20), max_size=6))
def test_a_row_is_the_same_alone_and_in_a_batch(texts: list[str]) -> None:
    batch = text_to_bytes(texts, max_bytes=16)
    for row, text in zip(batch, texts, strict=True):
        assert (text_to_bytes([text], max_bytes=16)[0] == row).all()


@given(text=st.text(max_size=60), width=st.integers(1, 80))
def test_a_text_cut_to_what_is_read_keeps_all_whole_characters_and_nothing_beyond(text: str, width: int) -> None:
    cut = as_read(text, kind="text", width=width)
    read, data = text_to_bytes([cut], max_bytes=width)[0], text.encode("utf-8", "replace")[:width]
    assert len(cut.encode()) > len(data) - 4
    assert bytes(read).startswith(cut.encode())
    assert data.startswith(cut.encode())


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert bytes(text_to_bytes(["a\ud800b"], max_bytes=4)[0]) == b"a?b\0"


def test_a_long_text_costs_no_more_than_its_first_bytes() -> None:
    assert text_to_bytes(["x" * 50_000_000], max_bytes=8).shape == (1, 8)


@pytest.mark.parametrize("bad", [[1.0, 2.0, 3.0], [1.0], [1.0, float("nan")], [float("inf"), 0.0], ["a", "b"], None])
def test_numbers_of_another_shape_or_not_finite_are_refused_with_their_row(bad: object) -> None:
    with pytest.raises(InputShapeError, match="input 1: "):
        floats_to_array([[0.5, 1.0], bad], features=2)


def test_text_where_numbers_belong_is_refused_and_the_other_way_round() -> None:
    with pytest.raises(InputShapeError, match="input 0: bytes; expected text"):
        encode([b"abc"], kind="text", width=4)
    with pytest.raises(InputShapeError):
        encode(["abc"], kind="floats", width=3)


def test_a_device_can_encode_without_torch_or_pyarrow() -> None:
    code = "import sys, pipeline.inputs; print(sorted({'torch', 'pyarrow', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
