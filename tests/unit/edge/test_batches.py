"""Callers at once share a run of the model, and nobody pays for anybody else."""

import threading
from collections.abc import Callable

import pytest

from pipeline.rollout.slots import Slot, Slots
from tests.kit.bundles import TEXTS, text_bundle, text_probabilities, text_table
from tests.kit.devices import Models
from workers.edge.batches import MAX_ROWS
from workers.edge.serving import Answer, Serving


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Slot:
    folder = tmp_path_factory.mktemp("slots")
    bundle = text_bundle(folder)
    return Slots(folder / "slots").stage(bundle.path, bundle.sha256)


class Crowd:
    """A device whose model is held by a first caller, so that the others wait."""

    def __init__(self, slot: Slot) -> None:
        self.models = Models()
        self.serving = Serving(self.models.start)
        self.serving.serve(slot)
        self.answers: dict[str, Answer | Exception] = {}
        self._threads: list[threading.Thread] = []

    def ask(self, *requests: list[str]) -> None:
        for inputs in requests:
            thread = threading.Thread(target=self._ask, args=(inputs,))
            self._threads.append(thread)
            thread.start()

    def gather(self, *requests: list[str]) -> None:
        """Ask while the first of them keeps the model busy; return when all are answered."""
        self.models.hold.clear()
        self.ask(requests[0])
        assert self.models.entered.acquire(timeout=10)
        self.ask(*requests[1:])
        wait_for(lambda: len(self.serving._batches._waiting) == len(requests) - 1)
        self.models.hold.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, inputs: list[str]) -> None:
        try:
            self.answers[inputs[0]] = self.serving.predict(inputs)
        except Exception as error:  # noqa: BLE001 - what a caller gets is what the test looks at
            self.answers[inputs[0]] = error

    def check(self, text: str) -> None:
        answer = self.answers[text]
        assert isinstance(answer, Answer)
        assert answer.probabilities_BK[0] == pytest.approx(text_probabilities(text, text_table(1)), abs=1e-5)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not happen")


def test_those_who_wait_are_answered_together_each_with_its_own_rows(slot: Slot) -> None:
    crowd = Crowd(slot)
    crowd.gather(*([text] for text in TEXTS))
    assert crowd.models.batches == [1, len(TEXTS) - 1]
    for text in TEXTS:
        crowd.check(text)


def test_a_single_caller_waits_for_nobody(slot: Slot) -> None:
    crowd = Crowd(slot)
    for text in TEXTS:
        crowd.serving.predict([text])
    assert crowd.models.batches == [1] * len(TEXTS)


def test_a_batch_is_bounded_and_a_large_request_runs_alone(slot: Slot) -> None:
    crowd = Crowd(slot)
    half = MAX_ROWS // 2
    crowd.gather(["first"], [f"a{n}" for n in range(half)], [f"b{n}" for n in range(half)], ["c"], ["d"] * (MAX_ROWS + 1))
    assert crowd.models.batches[0] == 1
    assert sorted(crowd.models.batches[1:]) == [1, MAX_ROWS, MAX_ROWS + 1]
    for text in ("first", "a0", "b0", "c", "d"):
        crowd.check(text)


def test_a_request_that_ends_the_process_costs_the_others_nothing(slot: Slot) -> None:
    crowd = Crowd(slot)
    crowd.models.poison = ord("!")
    crowd.gather(["first"], ["one"], ["!boom"], ["two"])
    assert isinstance(crowd.answers["!boom"], Exception)
    for text in ("first", "one", "two"):
        crowd.check(text)
    assert crowd.serving.predict(["after"]).probabilities_BK.shape == (1, 2)


def test_a_switch_between_them_gives_each_the_answer_of_the_model_it_names(slot: Slot, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("second")
    bundle = text_bundle(folder, release=2, seed=2)
    other = Slots(folder / "slots").stage(bundle.path, bundle.sha256)
    crowd = Crowd(slot)
    crowd.models.hold.clear()
    crowd.ask(["first"])
    assert crowd.models.entered.acquire(timeout=10)
    crowd.ask(["old"])
    wait_for(lambda: len(crowd.serving._batches._waiting) == 1)
    before = crowd.serving.switch(crowd.models.start(other, 0))
    crowd.ask(["new"])
    wait_for(lambda: len(crowd.serving._batches._waiting) == 2)
    crowd.models.hold.set()
    for thread in crowd._threads:
        thread.join()
    assert before is not None
    before.close()
    assert crowd.models.batches == [1, 1, 1]
    new = crowd.answers["new"]
    assert isinstance(new, Answer)
    assert new.slot.digest == other.digest
    assert new.probabilities_BK[0] == pytest.approx(text_probabilities("new", text_table(2)), abs=1e-5)
    crowd.check("old")
