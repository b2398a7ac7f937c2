"""What a device's owner allows: options, a budget by the hour, pauses after failures."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from workers.edge.allowance import BURST_SHARE, Allowance, AskOptions
from workers.edge.pauses import MAX_BACKOFF_S


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def allowance(per_hour: float = 3600.0) -> tuple[Allowance, Clock]:
    clock = Clock()
    return Allowance(per_hour, rng=random.Random(1), clock=clock), clock


def test_nothing_is_asked_unless_the_owner_says_so() -> None:
    assert AskOptions().ways == 0
    assert [AskOptions(below=0.5).ways, AskOptions(share=0.1).ways, AskOptions(below=1, share=1).ways] == [1, 1, 2]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AskOptions(below=1.5), "--ask-below: 1.5; expected a number from 0"),
        (lambda: AskOptions(below=math.nan), "--ask-below: nan; expected a number from 0"),
        (lambda: AskOptions(share=-0.1), "--ask-share: -0.1; expected a number from 0"),
        (lambda: AskOptions(per_hour=0), "--asks-per-hour: 0; expected 1 or more"),
        (lambda: AskOptions(per_hour=math.inf), "--asks-per-hour: inf; expected 1 or more"),
        (lambda: AskOptions(wait_ms=0), "--ask-wait-ms: 0; expected more than 0"),
        (lambda: AskOptions(wait_ms=1e6), "--ask-wait-ms: 1e"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_by_name(make: Callable[[], AskOptions], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make()
    assert str(refused.value).startswith(says)


@given(st.floats(1, 1000), st.lists(st.tuples(st.floats(0, 600), st.integers(1, 20)), max_size=60))
def test_no_hour_sees_more_questions_than_its_budget_and_a_burst(per_hour: float, calls: list[tuple[float, int]]) -> None:
    mine, clock = allowance(per_hour)
    gone: list[tuple[float, int]] = []
    for pause_s, wanted in calls:
        clock.now_s += pause_s
        leave = mine.admit(wanted)
        assert 0 <= leave.count <= wanted
        gone.append((clock.now_s, leave.count))
    for start_s, _ in gone:
        asked = sum(count for at_s, count in gone if start_s <= at_s < start_s + 3600)
        assert asked <= per_hour + max(1.0, BURST_SHARE * per_hour) + 1e-6


def test_a_budget_that_is_used_up_comes_back_with_time() -> None:
    mine, clock = allowance(per_hour=60)
    assert [mine.admit(4).count, mine.admit(4).count, mine.admit(4).count] == [4, 2, 0]
    assert mine.admit(1).denied == "over_budget"
    clock.now_s += 120
    assert mine.admit(9).count == 2


def test_after_a_failure_one_question_goes_at_the_end_of_a_pause_that_grows() -> None:
    mine, clock = allowance()
    mine.failed(mine.admit(5))
    pauses = []
    for _ in range(12):
        began_s = clock.now_s
        while not (leave := mine.admit(5)).count:
            assert leave.denied == "paused"
            clock.now_s += 0.05
        pauses.append(clock.now_s - began_s)
        assert leave.count == 1, "it is a try"
        assert mine.admit(5).count == 0, "until it is known how that went"
        mine.failed(leave)
    assert max(pauses[:2]) <= 4.1
    assert 60 < max(pauses) <= 2 * MAX_BACKOFF_S
    clock.now_s += 2 * MAX_BACKOFF_S
    assert mine.admit(5).count == 1
    mine.reached()
    assert mine.admit(5).count == 5


def test_calls_that_fail_together_count_once() -> None:
    mine, clock = allowance()
    leaves = [mine.admit(1) for _ in range(30)]
    for leave in leaves:
        mine.failed(leave)
    clock.now_s += 2.0
    assert mine.admit(1).count == 1, "the pause is that after one failure"
