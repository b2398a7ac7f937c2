"""Lines of a person as inputs: read by what the model eats, bad ones named by where they stand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.edge.inputs import Input
from workers.edge.lines import FLOATS, Diet, LineUnreadableError, in_pieces, read_line, read_word

NUMBERS = Diet(kind=FLOATS, width=2)


@pytest.mark.parametrize("line", ["[1, 2]", "{", "", '"half', "[not json", '"a" and "b"'])
def test_a_model_of_texts_gets_a_line_as_it_is(line: str) -> None:
    assert read_line(line, Diet(), "line 1") == line
    assert read_word(line, Diet(), "input 1") == line


def test_a_json_string_is_the_text_in_it_and_a_word_is_what_was_typed() -> None:
    assert read_line('"two\\nlines"', Diet(), "line 1") == "two\nlines"
    assert read_word('"quoted"', Diet(), "input 1") == '"quoted"'


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", "nothing"),
        ("1 2", "'1 2', which is no JSON"),
        ('{"a": 1}', "'{\"a\": 1}'"),
        ("[1]", "1 numbers"),
        ("[1, 2, 3]", "3 numbers"),
        ("[1, NaN]", "NaN in place 2"),
        ("[true, 2]", "true in place 1"),
        ("[[1], 2]", "[1] in place 1"),
        ("[" * 100_000, "which is no JSON"),
        (f"[1, 1{'0' * 5000}]", "which is no JSON"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_row_says_found_and_expected(line: str, found: str) -> None:
    with pytest.raises(LineUnreadableError, match="expected a JSON list of 2 numbers") as bad:
        read_line(line, NUMBERS, "rows.jsonl, line 7")
    assert str(bad.value).startswith("rows.jsonl, line 7: ")
    assert found in str(bad.value)
    assert len(str(bad.value)) < 300


@given(st.lists(st.integers(-1000, 1000), max_size=30), st.integers(1, 9), st.integers(0, 40))
def test_every_line_before_the_first_bad_one_is_answered_in_order(values: list[int], most: int, bad: int) -> None:
    texts = [json.dumps([value, 0]) for value in values]
    if bad < len(texts):
        texts[bad] = "bad"
    answered: list[Input] = []
    refused = ""

    def read(text: str, number: int) -> Input:
        return read_line(text, NUMBERS, f"line {number}")

    try:
        for piece in in_pieces(texts, read, most=most):
            assert 0 < len(piece) <= most
            answered += piece
    except LineUnreadableError as error:
        refused = error.where
    assert refused == (f"line {bad + 1}" if bad < len(texts) else "")
    assert answered == [[value, 0] for value in values[:bad]]
