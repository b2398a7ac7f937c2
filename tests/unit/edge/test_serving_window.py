"""What a device tells of how it answers: the last ten minutes, of the running release, and nothing else."""

from workers.edge.serving_window import LATENCIES_A_MINUTE, ServingWindow


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_answered_tells_nothing() -> None:
    assert ServingWindow().told() is None


def test_counts_mean_confidence_and_median_latency() -> None:
    window = ServingWindow(Clock())
    window.answered([0.5, 0.7], 3.0)
    window.answered([0.9], 1.0)
    window.answered([0.9], 100.0)
    told = window.told()
    assert told is not None
    assert (told.answers, told.latency_p50_ms) == (4, 3.0)
    assert abs(told.confidence_mean - 0.75) < 1e-9


def test_a_model_that_answers_nothing_with_a_number_spoils_no_sync() -> None:
    window = ServingWindow(Clock())
    window.answered([float("nan")], 3.0)
    assert window.told() is None


def test_what_is_older_than_ten_minutes_is_forgotten() -> None:
    clock = Clock()
    window = ServingWindow(clock)
    window.answered([0.5], 3.0)
    clock.now_s += 600.0
    assert window.told() is None
    window.answered([0.9], 1.0)
    assert window.told().answers == 1  # type: ignore[union-attr]


def test_another_release_begins_anew() -> None:
    window = ServingWindow(Clock())
    window.answered([0.5], 3.0)
    window.begin_anew("b")
    assert window.told() is None


def test_a_busy_minute_keeps_a_bounded_number_of_latencies() -> None:
    window = ServingWindow(Clock())
    for _ in range(10 * LATENCIES_A_MINUTE):
        window.answered([1.0], 1.0)
    assert len(window._minutes[-1].latencies_ms) == LATENCIES_A_MINUTE
    assert window.told().answers == 10 * LATENCIES_A_MINUTE  # type: ignore[union-attr]
