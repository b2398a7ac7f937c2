"""The page that a run ends with, from run.json alone."""

import copy
import json
from typing import Any

import pytest

from tests.kit.readme import EXAMPLE
from workers.driver.rendering import render


@pytest.fixture
def summary() -> Any:
    return json.loads(EXAMPLE.read_text())


def line_of(page: str, *words: str) -> str:
    (line,) = [line for line in page.splitlines() if all(word in line for word in words)]
    return line


def test_each_student_says_which_goal_it_meets_beside_its_teacher(summary: Any) -> None:
    for name, ratios in {"small": (1 / 59, 1 / 16), "base": (1 / 38, 1 / 24)}.items():
        summary["test"][name]["student"]["of_teacher"] = dict(zip(("size_bytes", "latency_p50_ms"), ratios, strict=True))
    page = render(summary)
    assert "1/59 of the teacher's size (goal 1/50: met), 1/16 of its latency (goal 1/20: missed)" in line_of(page, "small  ", "goal")
    assert "1/38 of the teacher's size (goal 1/50: missed), 1/24 of its latency (goal 1/20: met)" in line_of(page, "base  ", "goal")
    assert page.count("TF-IDF with a linear model is a small teacher") == 1


def test_another_teacher_is_not_called_small_and_one_without_files_has_no_ratio_of_sizes(summary: Any) -> None:
    summary["teacher"]["note"] = ""
    summary["test"]["small"]["teacher"]["size_bytes"] = None
    summary["test"]["small"]["student"]["of_teacher"] = {"size_bytes": None, "latency_p50_ms": 0.5}
    page = render(summary)
    assert "small teacher" not in page
    assert line_of(page, "small  ", "goal").split(maxsplit=1)[1] == "1/2 of the teacher's latency (goal 1/20: missed)"


def test_a_student_behind_its_control_says_so_in_points(summary: Any) -> None:
    gains = {"accuracy": -0.0133, "auc": 0.0026, "recall_at_fpr": -0.034}
    summary["test"]["base"]["student_minus_control"] = gains
    summary["test"]["small"]["student_minus_control"] = {"accuracy": 0.02, "auc": None, "recall_at_fpr": None}
    page = render(summary)
    assert "against its control: accuracy -1.3, AUC +0.3, recall -3.4 points" in page
    assert "against its control: accuracy +2.0 points" in page


def test_a_control_that_took_fewer_steps_than_its_student_says_so(summary: Any) -> None:
    one = summary["test"]["small"]
    assert "steps" not in render(summary)
    one["student"]["steps"], one["control"]["steps"] = 6000, 4800
    assert line_of(render(summary), "control", "4,800 of 6,000 steps")


def test_a_run_without_a_control_or_a_test_split_still_ends_with_a_page(summary: Any) -> None:
    bare = copy.deepcopy(summary)
    bare["test"]["small"] |= {"control": None, "student_minus_control": None}
    bare["test"]["base"] = None
    assert "against its control" not in render(bare)
    assert "goal" not in render(summary | {"test": {}})


def test_a_student_whose_release_was_taken_back_is_not_said_to_have_shipped_and_no_more(summary: Any) -> None:
    summary["taken_back"] = {"small": {"generation": 1, "reason": "a typo", "says": "generation 1 was taken back (a typo): what next"}}
    page = render(summary)
    assert line_of(page, "small  ", "shipped").split(maxsplit=1)[1].startswith("taken back since; before that, shipped. phones: 3 of 3")
    assert line_of(page, "small  ", "generation 1 was taken back (a typo): what next")
