"""Live inputs are few, and small."""

import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.edge.live_inputs import MAX_BYTES, MAX_INPUTS, LiveInputs
from workers.rpc import local_pb2 as pb


def test_many_megabytes_of_inputs_take_no_more_memory_than_is_allowed() -> None:
    live = LiveInputs()
    for number in range(MAX_INPUTS):
        live.add([f"{number}" + "\N{GRINNING FACE}" * (1 << 20)])
    kept = live.newest()
    assert sum(sys.getsizeof(text) for text in kept) <= MAX_BYTES
    assert str(kept[-1]).startswith(f"{MAX_INPUTS - 1}"), "the newest stay"


def test_wide_rows_count_by_their_numbers() -> None:
    live = LiveInputs()
    width = MAX_BYTES // 4 // 3
    for number in range(5):
        live.add([pb.Row(values=np.full(width, number, dtype=np.float32)).values])
    assert [row[0] for row in live.newest()] == [2.0, 3.0, 4.0]


@given(st.lists(st.lists(st.text(max_size=3), max_size=150), max_size=5))
def test_the_newest_are_kept_in_their_order(calls: list[list[str]]) -> None:
    live = LiveInputs()
    for inputs in calls:
        live.add(inputs)
    assert live.newest() == [text for inputs in calls for text in inputs][-MAX_INPUTS:]
