"""Live inputs are few, and small."""

import sys

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


def test_a_row_of_numbers_does_not_hold_on_to_its_request() -> None:
    request = pb.PredictRequest(rows=[pb.Row(values=[0.5, 1.0])])
    live = LiveInputs()
    live.add([row.values for row in request.rows])
    assert list(live.newest()[0]) == [0.5, 1.0]
    assert live.newest()[0] is not request.rows[0].values


@given(st.lists(st.lists(st.text(max_size=3), max_size=150), max_size=5))
def test_the_newest_are_kept_in_their_order(calls: list[list[str]]) -> None:
    live = LiveInputs()
    for inputs in calls:
        live.add(inputs)
    assert live.newest() == [text for inputs in calls for text in inputs][-MAX_INPUTS:]
