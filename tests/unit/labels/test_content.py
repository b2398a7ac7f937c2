"""Content keys: the same bits the same key, whatever lies around them; anything else another."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.content import content_keys, is_key, key_column, keys_of_column, repeats

NUMBERS = st.lists(st.floats(width=32), max_size=5)


def floats(rows: list[Any]) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32()))


@given(st.lists(st.text(max_size=6), min_size=2, max_size=20))
def test_two_texts_have_the_same_key_only_if_they_are_the_same(texts: list[str]) -> None:
    keys = [tuple(key) for key in content_keys(pa.array(texts, pa.string())).tolist()]
    assert {keys[i] == keys[j] for i in range(len(texts)) for j in range(len(texts)) if texts[i] == texts[j]} == {True}
    assert len(set(keys)) == len(set(texts))


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_two_lists_of_numbers_have_the_same_key_only_if_they_have_the_same_bits(rows: list[list[float]]) -> None:
    keys = {tuple(key) for key in content_keys(floats(rows)).tolist()}
    assert len(keys) == len({np.array(row, dtype="<f4").tobytes() for row in rows})


@given(st.lists(NUMBERS, min_size=1, max_size=12), st.data())
def test_a_slice_has_the_keys_of_its_rows(rows: list[list[float]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows) - 1))
    for whole in (floats(rows), pa.array([repr(row) for row in rows])):
        np.testing.assert_array_equal(content_keys(whole[start:]), content_keys(whole)[start:])
        np.testing.assert_array_equal(keys_of_column(key_column(content_keys(whole))[start:]), content_keys(whole)[start:])


def test_a_text_and_numbers_of_the_same_bytes_are_two_contents() -> None:
    number = np.frombuffer(b"abcd", dtype="<f4")[0]
    assert content_keys(floats([[number]])).tolist() != content_keys(pa.array(["abcd"])).tolist()


def test_a_missing_input_has_no_key_and_its_neighbours_have_theirs() -> None:
    keys = content_keys(pa.array(["a", None, "b"]))
    assert is_key(keys).tolist() == [True, False, True]
    np.testing.assert_array_equal(keys[2], content_keys(pa.array(["b"]))[0])


@pytest.mark.parametrize("inputs", [floats([[1.0, None]]), pa.array([1, 2]), pa.array([[1.0]], pa.list_(pa.float64()))])
def test_what_has_no_canonical_bytes_has_no_key(inputs: pa.Array) -> None:
    assert not is_key(content_keys(inputs)).any()


@pytest.mark.parametrize("inputs", [pa.array([], pa.string()), floats([]), pa.array([""]), floats([[]])])
def test_no_rows_and_empty_rows_are_fine(inputs: pa.Array) -> None:
    assert is_key(content_keys(inputs)).all()


def test_a_key_never_changes_from_version_to_version_unseen() -> None:
    assert key_column(content_keys(pa.array(["kdpipe"])))[0].as_py().hex() == "94a833c5f18949396711727c4d89441e"
    assert key_column(content_keys(floats([[1.0, -2.5]])))[0].as_py().hex() == "c7c3a724240b88d268e3cecd9a89f376"


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12))
def test_a_repeat_points_at_the_first_of_its_kind(texts: list[str | None]) -> None:
    first = repeats(content_keys(pa.array(texts, pa.string()))).tolist()
    assert first == [place if text is None else texts.index(text) for place, text in enumerate(texts)]
