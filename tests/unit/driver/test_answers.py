"""Answers of devices and of teachers. A device that answers otherwise than the artefact is an error of the fleet, not a line in a page."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit.students import CLASSES, mails
from workers.driver.answers import asked_once
from workers.driver.summary import SAME_WITHIN, answers_that_differ, compared


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


def test_an_answer_that_the_teacher_gave_in_the_models_place_is_not_held_against_the_artefact() -> None:
    expected_NK = np.array([[0.9, 0.1], [0.5, 0.5]])
    given = {"probabilities": [[0.9, 0.1], [0.01, 0.99]], "by_teacher": [False, True]}
    assert compared("phones-1", given, expected_NK) == {"device": "phones-1", "asked": 1, "largest_difference": 0.0, "same": True}
    assert (compared("phones-1", {**given, "by_teacher": [False, False]}, expected_NK) or {})["same"] is False
    assert compared("phones-1", {**given, "by_teacher": [True, True]}, expected_NK) is None


def test_a_teacher_that_answers_nothing_is_asked_again_once_it_is_mended_and_then_no_more(tmp_path: Path) -> None:
    asked = []

    class Teacher:
        classes: tuple[str, ...] = CLASSES
        fingerprint, deterministic, mended = "same", True, False

        def log_probs(self, inputs: Any) -> np.ndarray:
            asked.append(len(inputs))
            if not self.mended:
                raise ConnectionError("refused")
            return np.full((len(inputs), 2), -0.7, dtype=np.float32)

    teacher, samples = Teacher(), mails(4, teacher=False)
    assert asked_once(samples, teacher, tmp_path).fault == "ConnectionError: refused"
    teacher.mended = True
    asked.clear()
    for _ in range(2):
        assert len(asked_once(samples, teacher, tmp_path).answered()) == 4
    assert asked == [4]
