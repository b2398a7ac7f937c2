"""A device that is unsure asks its teacher, and one that is asked to holds answers against it; whatever comes of it, it answers."""

import logging
import math
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from pipeline.rollout.slots import Slot
from tests.kit.bundles import text_manifest
from tests.kit.told_teacher import ToldTeacher
from workers.edge.allowance import AskOptions
from workers.edge.asking import MAX_DRAWN, MAX_UNDER_WAY, Asking, Audit
from workers.edge.fleet_client import FleetLateError, FleetRefusedError, FleetUnreachableError
from workers.edge.inputs import Input
from workers.edge.metrics import EdgeMetrics
from workers.edge.questions import MAX_NUMBERS, MAX_TEXT_BYTES
from workers.edge.serving import Answer
from workers.edge.serving_window import ServingWindow

SLOT = Slot(digest="a" * 64, folder=Path(), manifest=text_manifest(), golden=())
OTHER = Slot(digest="b" * 64, folder=Path(), manifest=text_manifest(release=2), golden=())
SURE, UNSURE = (0.875, 0.125), (0.5625, 0.4375)
PLENTY = 36_000_000.0


class Bench:
    """Asking, with a teacher that was told what to say, and a clock that the test moves."""

    def __init__(self, **options: Any) -> None:
        self.teacher, self.registry, self.now_s = ToldTeacher(), CollectorRegistry(), 6_000.0
        self.window = ServingWindow(lambda: self.now_s)
        self.window.begin_anew(SLOT.digest)
        self.asking = Asking(
            AskOptions(**{"per_hour": PLENTY, **options}), line=self.teacher, window=self.window, metrics=EdgeMetrics(self.registry),
            rng=random.Random(3), clock=lambda: self.now_s,
        )  # fmt: skip

    @property
    def audit(self) -> Audit:
        assert self.asking._audit is not None
        return self.asking._audit

    def give(self, *rows: tuple[float, float], slot: Slot = SLOT, inputs: list[Input] | None = None) -> tuple[Any, list[bool]]:
        """Answer as a device does: the local answer is counted, then perhaps another is given."""
        probabilities_BK: NDArray[np.float32] = np.asarray(rows, dtype=np.float32)
        self.window.answered(probabilities_BK.max(axis=1).tolist(), 1.0)
        texts: list[Input] = [f"text {n}" for n in range(len(rows))]
        given = self.asking.give(inputs or texts, Answer(slot=slot, probabilities_BK=probabilities_BK, run_s=0.001))
        return [tuple(row) for row in given.probabilities_BK.tolist()], given.by_teacher_B.tolist()

    def count(self, way: str, outcome: str) -> float:
        found = self.registry.get_sample_value("kdpipe_edge_asks_total", {"way": way, "outcome": outcome})
        assert found is not None, "each label set is there from the first scrape"
        return found

    @property
    def shown(self) -> tuple[int, int, int, str]:
        told = self.asking.shown()
        assert told is not None
        return told.asked, told.answered, told.used, told.last_failure


def test_what_the_model_is_unsure_of_is_asked_and_the_rest_is_not() -> None:
    bench = Bench(below=0.75, wait_ms=250)
    assert bench.give(SURE, UNSURE, SURE) == ([SURE, bench.teacher.probabilities, SURE], [False, True, False])
    assert [request.text for request in bench.teacher.asked] == ["text 1"]
    assert bench.teacher.calls[0][1] == 0.25
    assert bench.shown == (1, 1, 1, "")
    assert bench.count("escalation", "answered") == 1


def test_without_leave_nothing_is_asked_and_nothing_is_shown() -> None:
    bench = Bench()
    assert bench.give(UNSURE) == ([UNSURE], [False])
    assert (bench.teacher.calls, bench.asking.shown()) == ([], None)


def test_numbers_are_asked_as_numbers() -> None:
    bench = Bench(below=0.75)
    bench.give(UNSURE, inputs=[[0.5, -1.0]])
    assert list(bench.teacher.asked[0].numbers.values) == [0.5, -1.0]


def test_a_teacher_with_its_classes_in_another_order_is_understood() -> None:
    bench = Bench(below=0.75)
    bench.teacher.classes = ("spam", "ham")
    assert bench.give(UNSURE) == ([(0.9375, 0.0625)], [True])


@pytest.mark.parametrize(
    ("classes", "probabilities", "says"),
    [
        (("ham", "spam", "virus"), (0.25, 0.5, 0.25), "it knows the classes ham, spam, virus; expected those of the release: ham, spam"),
        (("ham", "ham"), (0.5, 0.5), "it knows the classes ham, ham"),
        (("ham", "spam"), (1.0,), "1 probabilities; expected 2"),
        (("ham", "spam"), (math.nan, 1.0), "no probabilities"),
        (("ham", "spam"), (-1.0, 2.0), "no probabilities"),
        (("ham", "spam"), (0.25, 0.25), "no probabilities"),
    ],
)
def test_an_answer_that_the_release_cannot_use_is_ignored_and_said_once(
    classes: tuple[str, ...], probabilities: tuple[float, ...], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(below=0.75)
    bench.teacher.classes, bench.teacher.probabilities = classes, probabilities
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert bench.give(UNSURE) == ([UNSURE], [False])
            bench.now_s += 600
    assert says in bench.shown[3]
    assert [record.message for record in caplog.records] == ["the teacher's answers are ignored"]
    assert bench.count("escalation", "unusable") == 3


@pytest.mark.parametrize(
    ("fault", "outcome", "says"),
    [
        (FleetUnreachableError("Ask", "UNAVAILABLE no route"), "unreachable", "UNAVAILABLE no route"),
        (FleetLateError("Ask", "DEADLINE_EXCEEDED"), "late", "DEADLINE_EXCEEDED"),
        (FleetRefusedError("Ask", "FAILED_PRECONDITION", "nobody answers"), "refused", "FAILED_PRECONDITION nobody answers"),
    ],
)
def test_no_answer_is_the_devices_own_answer_and_the_teacher_is_left_alone(
    fault: FleetUnreachableError | FleetRefusedError, outcome: str, says: str
) -> None:
    bench = Bench(below=0.75)
    bench.teacher.fault = lambda request: fault
    for _ in range(200):
        assert bench.give(UNSURE, UNSURE) == ([UNSURE, UNSURE], [False, False])
    assert len(bench.teacher.calls) == 1, "a device without a network answers as fast as ever"
    assert (bench.count("escalation", outcome), bench.count("escalation", "paused")) == (2, 398)
    assert bench.shown == (2, 0, 0, says)
    bench.teacher.fault = lambda request: None
    bench.now_s += 10
    assert bench.give(UNSURE)[1] == [True], "it is tried again"
    assert bench.shown[3] == ""


def test_offline_for_hours_hardly_any_answer_waits() -> None:
    bench = Bench(below=0.75)
    bench.teacher.fault = lambda request: FleetUnreachableError("Ask", "UNAVAILABLE")
    for _ in range(2000):
        bench.give(UNSURE)
        bench.now_s += 10
    assert len(bench.teacher.calls) < 200


def test_an_input_that_the_teacher_refuses_does_not_stop_the_next_question() -> None:
    bench = Bench(below=0.75)
    bad = FleetRefusedError("Ask", "INVALID_ARGUMENT", "too long")
    bench.teacher.fault = lambda request: bad if request.text == "bad" else None
    assert bench.give(UNSURE, inputs=["bad"])[1] == [False]
    assert bench.give(UNSURE)[1] == [True]


def test_of_several_questions_those_that_come_in_time_are_used() -> None:
    bench = Bench(below=0.75)
    bench.teacher.fault = lambda request: FleetLateError("Ask", "late") if request.text == "text 1" else None
    assert bench.give(UNSURE, UNSURE, UNSURE)[1] == [True, False, True]
    assert len(bench.teacher.calls) == 1, "all at once"
    assert bench.give(UNSURE)[1] == [True], "the teacher is there"


def test_of_many_unsure_rows_the_least_sure_are_asked() -> None:
    bench = Bench(below=0.99)
    rows = [(share, 1 - share) for share in np.random.default_rng(1).permutation(np.linspace(0.5, 0.75, 40))]
    _, by_teacher = bench.give(*rows)
    asked = sorted(row[0] for row, is_asked in zip(rows, by_teacher, strict=True) if is_asked)
    assert asked == sorted(row[0] for row in rows)[:MAX_UNDER_WAY]
    assert bench.count("escalation", "dropped") == 40 - MAX_UNDER_WAY


def test_a_budget_that_is_used_up_leaves_the_devices_own_answer() -> None:
    bench = Bench(below=0.75, per_hour=20)
    assert bench.give(UNSURE, UNSURE, UNSURE)[1] == [True, True, False]
    assert bench.give(UNSURE)[1] == [False]
    assert bench.count("escalation", "over_budget") == 2
    bench.now_s += 3600 / 20
    assert bench.give(UNSURE)[1] == [True]


def test_an_input_that_is_too_long_is_not_asked() -> None:
    bench = Bench(below=0.75)
    long: list[Input] = ["x" * (MAX_TEXT_BYTES + 1), "é" * (MAX_TEXT_BYTES // 2 + 1), "x" * MAX_TEXT_BYTES]
    assert bench.give(UNSURE, UNSURE, UNSURE, inputs=long)[1] == [False, False, True]
    assert bench.give(UNSURE, inputs=[[0.0] * (MAX_NUMBERS + 1)])[1] == [False]
    assert bench.count("escalation", "too_long") == 3


def test_so_many_questions_are_under_way_and_one_more_is_answered_by_the_device_at_once() -> None:
    bench = Bench(below=0.75)
    waiting, go = threading.Semaphore(0), threading.Event()

    def slow() -> None:
        waiting.release()
        assert go.wait(20)

    bench.teacher.on_ask = slow
    got: list[list[bool]] = []
    threads = [threading.Thread(target=lambda: got.append(bench.give(UNSURE)[1])) for _ in range(MAX_UNDER_WAY)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=20)
    assert bench.give(UNSURE) == ([UNSURE], [False])
    go.set()
    for thread in threads:
        thread.join()
    assert got == [[True]] * MAX_UNDER_WAY


def test_a_bug_in_asking_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(below=0.75, share=1.0)

    def broken() -> None:
        raise ZeroDivisionError

    bench.teacher.on_ask = broken
    assert bench.give(UNSURE) == ([UNSURE], [False])
    assert bench.audit.step(), "the audit goes on"
    assert len(caplog.records) == 2


def test_what_is_told_of_the_model_is_its_own_whoever_answered() -> None:
    bench = Bench(below=0.75)
    bench.give(UNSURE)
    told = bench.window.told()
    assert told is not None
    assert (told.answers, told.confidence_mean, told.latency_p50_ms) == (1, UNSURE[0], 1.0)
    assert (told.asked, told.agreed) == (0, 0), "an escalation is no draw"


def test_answers_are_held_against_the_teachers() -> None:
    bench = Bench(share=1.0)
    bench.teacher.by_text = {"text 1": (1.0, 0.0)}
    bench.give((0.125, 0.875), (0.25, 0.75), (0.75, 0.25))
    assert bench.teacher.calls == [], "not by the thread that answers"
    assert all(bench.audit.step() for _ in range(3))
    told = bench.window.told()
    assert told is not None
    assert (told.asked, told.agreed) == (3, 1)
    assert bench.shown == (3, 3, 0, "")


def test_the_draw_sees_the_true_agreement_whatever_the_model_is_sure_of_and_however_much_it_escalates() -> None:
    """Half of the answers are unsure, and wrong: all of them are escalated until that budget is gone. Of a draw that asking for help could
    sway, another share would agree."""
    bench = Bench(share=0.25, below=0.75, per_hour=10_000.0)
    bench.teacher.probabilities = (1.0, 0.0)
    unsure_and_wrong = (UNSURE[1], UNSURE[0])
    drawn_of: dict[bool, int] = {True: 0, False: 0}
    for n in range(2400):
        is_sure = n % 2 == 0
        before = bench.audit._drawn.qsize()
        bench.give(SURE if is_sure else unsure_and_wrong)
        if bench.audit._drawn.qsize() > before:
            drawn_of[is_sure] += 1
            bench.audit.step()
        bench.now_s += 0.14
    told = bench.window.told()
    assert told is not None
    assert bench.count("escalation", "over_budget") > 0
    assert abs(drawn_of[True] - drawn_of[False]) < 4 * math.sqrt(2400 * 0.25 * 0.75)
    assert abs(told.agreed / told.asked - 0.5) < 4 * math.sqrt(0.25 / told.asked)
    assert told.asked > 500


def test_the_same_seed_draws_the_same_answers_whatever_fails() -> None:
    def drawn(fails: bool) -> list[bool]:
        bench = Bench(share=0.5, below=0.75)
        if fails:
            bench.teacher.fault = lambda request: FleetUnreachableError("Ask", "UNAVAILABLE")
        seen = []
        for _ in range(MAX_DRAWN):
            before = bench.audit._drawn.qsize()
            bench.give(UNSURE)
            seen.append(bench.audit._drawn.qsize() > before)
            bench.now_s += 100
        return seen

    assert drawn(fails=True) == drawn(fails=False)


def test_an_audit_delays_no_answer_and_what_does_not_fit_is_left_out() -> None:
    bench = Bench(share=1.0)
    entered, go = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        assert go.wait(20)

    bench.teacher.on_ask = slow
    bench.asking.start()
    bench.give(SURE)
    assert entered.wait(20)
    began_s = time.monotonic()
    for _ in range(MAX_DRAWN + 5):
        assert bench.give(SURE) == ([SURE], [False])
    assert time.monotonic() - began_s < 5
    assert bench.count("audit", "dropped") == 5
    bench.asking.close()
    go.set()


def test_an_answer_about_the_release_before_is_dropped() -> None:
    bench = Bench(share=1.0)
    bench.give(SURE)
    bench.window.begin_anew(OTHER.digest)
    bench.give((0.125, 0.875), slot=OTHER)
    assert bench.audit.step()
    assert bench.audit.step()
    told = bench.window.told()
    assert told is not None
    assert (told.asked, told.agreed) == (1, 1)


def test_no_more_are_told_as_asked_than_as_answered() -> None:
    """The orchestrator refuses a Sync that says so: an answer of the teacher's that comes late is counted with the answer it is about."""
    bench = Bench(share=1.0)
    for _ in range(5):
        bench.give(SURE)
    bench.now_s += 9 * 60
    bench.give(SURE)
    bench.now_s += 60
    for _ in range(6):
        bench.audit.step()
    told = bench.window.told()
    assert told is not None
    assert (told.answers, told.asked) == (1, 1)


def test_nothing_is_asked_after_the_end() -> None:
    bench = Bench(share=1.0)
    bench.give(*[SURE] * MAX_DRAWN)
    bench.asking.close()
    assert not bench.audit.step()
    assert bench.teacher.calls == []


def test_a_release_of_other_classes_is_asked_by_its_own_manifest() -> None:
    bench = Bench(below=0.75)
    slot = replace(SLOT, manifest=replace(text_manifest(), classes=("spam", "ham")))
    assert bench.give(UNSURE, slot=slot)[0] == [(0.9375, 0.0625)]
