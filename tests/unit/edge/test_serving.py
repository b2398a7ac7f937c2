"""Answers go on whatever happens to the model's process."""

import threading

import numpy as np
import pytest

from pipeline.rollout.slots import Slot, Slots
from tests.kit.bundles import TEXTS, text_bundle, text_probabilities, text_table
from tests.kit.devices import Models, TableModel
from workers.edge.inputs import softmax
from workers.edge.live_inputs import MAX_INPUTS
from workers.edge.model_process import ModelDiedError
from workers.edge.serving import DEATHS_ALLOWED, NoModelError, Serving


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> list[Slot]:
    folder = tmp_path_factory.mktemp("slots")
    bundles = [text_bundle(folder / "bundles", release=n, seed=n) for n in (1, 2)]
    return [Slots(folder / "slots").stage(b.path, b.sha256) for b in bundles]


def test_before_the_first_install_the_answer_says_what_to_do() -> None:
    with pytest.raises(NoModelError, match="kdpipe edge status"):
        Serving(Models().start).predict(["x"])


def test_a_process_that_died_is_started_again_within_the_request(slots: list[Slot]) -> None:
    models, restarts = Models(), []
    serving = Serving(models.start, on_restart=lambda: restarts.append(1))
    serving.serve(slots[0])
    model = serving.switch(None)
    assert isinstance(model, TableModel)
    serving.switch(model)
    model.kill()
    answer = serving.predict(TEXTS)
    assert answer.probabilities_BK[0] == pytest.approx(text_probabilities(TEXTS[0], text_table(1)), abs=1e-5)
    assert (restarts, serving.deaths) == ([1], 0)


def test_a_dead_process_is_started_again_without_any_request(slots: list[Slot]) -> None:
    models = Models()
    serving = Serving(models.start)
    serving.serve(slots[0])
    model = serving.switch(None)
    serving.switch(model)
    assert isinstance(model, TableModel)
    model.kill()
    serving.tend()
    assert models.started == [slots[0].digest] * 2


def test_a_release_that_keeps_dying_is_reported_as_broken(slots: list[Slot]) -> None:
    models = Models()
    serving = Serving(models.start)
    serving.serve(slots[0])
    models.deadly[slots[0].digest] = 0
    for _ in range(DEATHS_ALLOWED):
        assert not serving.broken
        with pytest.raises(ModelDiedError):
            serving.predict(["x"])
    assert serving.broken


def test_a_release_that_no_longer_starts_is_reported_as_broken(slots: list[Slot]) -> None:
    models = Models()
    serving = Serving(models.start)
    serving.serve(slots[0])
    models.refused.add(slots[0].digest)
    model = serving.switch(None)
    serving.switch(model)
    assert isinstance(model, TableModel)
    model.kill()
    for _ in range(DEATHS_ALLOWED):
        serving.tend()
    assert serving.broken


def test_answers_go_on_while_the_model_is_switched_over_and_over(slots: list[Slot]) -> None:
    serving = Serving(Models().start)
    serving.serve(slots[0])
    stop, wrong, answered = threading.Event(), [], [0]
    tables = {slot.digest: text_table(n) for n, slot in enumerate(slots, 1)}

    def ask() -> None:
        while not stop.is_set():
            answer = serving.predict(["hello there"])
            expected = text_probabilities("hello there", tables[answer.slot.digest])
            if abs(answer.probabilities_BK[0][0] - expected[0]) > 1e-4:
                wrong.append(answer)
            answered[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    for n in range(200):
        serving.serve(slots[n % 2])
    while answered[0] < 10 and thread.is_alive():
        pass
    stop.set()
    thread.join()
    assert wrong == []
    assert answered[0] >= 10


def test_live_inputs_are_bounded_and_forgotten_at_a_switch(slots: list[Slot]) -> None:
    serving = Serving(Models().start)
    serving.serve(slots[0])
    serving.predict([str(n) for n in range(MAX_INPUTS + 5)])
    assert serving.live_inputs()[0] == "5"
    serving.serve(slots[1])
    assert serving.live_inputs() == []


def test_softmax_does_not_overflow_and_respects_temperature() -> None:
    rows = softmax(np.array([[1e4, -1e4], [2.0, 0.0]], dtype=np.float32), 2.0)
    assert rows[0].tolist() == [1.0, 0.0]
    assert rows[1].tolist() == pytest.approx([1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(1.0))], rel=1e-5)
