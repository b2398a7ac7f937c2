"""A device that answers otherwise than the artefact is an error of the fleet, not a line in a page."""

import pickle

import pytest

from workers.driver.summary import SAME_WITHIN, answers_that_differ


def page(difference: float) -> dict[str, object]:
    return {
        "answers": {
            "phones": {"device": "phones-1", "asked": 32, "largest_difference": difference, "same": difference <= SAME_WITHIN},
            "desks": None,
        }
    }


@pytest.mark.parametrize("difference", [0.2, float("nan")])
def test_a_device_that_answers_otherwise_fails_the_run_with_the_fleets_exit_code(difference: float) -> None:
    (error,) = answers_that_differ(page(difference))
    assert error.exit_code == 8
    assert "phones-1" in str(error)
    assert "expected at most 1e-03" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_device_that_answers_within_the_tolerance_is_no_error() -> None:
    assert answers_that_differ(page(SAME_WITHIN)) == []
