"""What answers: one model process, kept alive, switched without a gap.

Answers come from one slot at a time; requests that come at once share a run of the model (`batches`). A process that dies is started
again, in the request that finds it dead or by `tend`; one that keeps dying is reported by `broken`, and what to do then is the agent's
decision. Remembers the last few live inputs (`live_inputs`) for a shadow run. Nothing here delays an answer: a switch swaps two pointers.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DeviceError
from pipeline.rollout.slots import Slot
from workers.edge.batches import Batches, BatchFailedError
from workers.edge.inputs import Input, encode, softmax
from workers.edge.live_inputs import LiveInputs
from workers.edge.model_process import Logits, ModelDiedError
from workers.edge.serving_window import ServingWindow

DEATHS_ALLOWED = 5
"""Deaths in a row, without one answer between them, before a release counts as broken."""


class Model(Protocol):
    """A running model; `model_process.ModelProcess` on a device."""

    slot: Slot

    @property
    def alive(self) -> bool: ...
    def run(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> Logits: ...
    def memory_bytes(self) -> int: ...
    def close(self) -> None: ...


StartModel = Callable[[Slot, int], Model]
"""(slot, niceness) -> a model that has loaded. Raises ModelDiedError, ModelRefusedError."""


class NoModelError(DeviceError):
    """Nothing is installed yet, or nothing that is installed comes up."""

    def __str__(self) -> str:
        return (
            "no model answers on this device; expected a confirmed release that comes up; `kdpipe edge status DIR` says whether one is "
            "installed (it is started again each turn) or the first rollout is still to bring it"
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Probabilities of a batch, and which release gave them."""

    slot: Slot
    probabilities_BK: NDArray[np.float32]
    run_s: float


class Serving:
    """The device's answers."""

    def __init__(self, start: StartModel, *, on_restart: Callable[[], None] = lambda: None) -> None:
        self._start, self._on_restart = start, on_restart
        self._model: Model | None = None
        self._switch = threading.Lock()
        self._deaths = 0
        self._batches, self._alone = Batches(), threading.Lock()
        self._live = LiveInputs()
        self.window = ServingWindow()

    @property
    def slot(self) -> Slot | None:
        model = self._model
        return model.slot if model is not None else None

    @property
    def deaths(self) -> int:
        """Deaths since the last answer, or the last switch."""
        return self._deaths

    @property
    def broken(self) -> bool:
        """The release has died too often in a row."""
        return self._deaths >= DEATHS_ALLOWED

    def predict(self, inputs: Sequence[Input]) -> Answer:
        """Answer a batch. Raises NoModelError, InputInvalidError, ModelRefusedError, and ModelDiedError after one restart."""
        model = self._model
        if model is None:
            raise NoModelError
        started_s = time.perf_counter()
        answer = self._answer(model, inputs)
        self.window.answered(answer.probabilities_BK.max(axis=1).tolist(), (time.perf_counter() - started_s) * 1000)
        self._live.add(inputs)
        return answer

    def live_inputs(self) -> list[Input]:
        """The newest live inputs, oldest first."""
        return self._live.newest()

    def await_live_inputs(self, count: int, timeout_s: float) -> bool:
        """Wait until so many were answered, or the time is over. Whether they are there."""
        return self._live.wait_for(count, timeout_s)

    def serve(self, slot: Slot, *, prove: Callable[[Model], None] = lambda model: None) -> None:
        """Answer from this slot from now on, once its model has loaded and is proven.

        Raises ModelDiedError, ModelRefusedError, and what `prove` raises; then nothing changed.
        """
        old = self.switch(start_proven(self._start, slot, prove))
        if old is not None:
            old.close()

    def switch(self, model: Model | None) -> Model | None:
        """Answer from a model that is already up; returns the one before, still running."""
        with self._switch:
            old, self._model = self._model, model
            self._deaths = 0
        self._live.clear()
        self.window.begin_anew(model.slot.digest if model is not None else "")
        return old

    def tend(self) -> None:
        """Start the model again if it has died."""
        model = self._model
        if model is not None and not model.alive and not self.broken:
            with contextlib.suppress(ModelDiedError):  # counted; the next turn tries again
                self._revive(model)

    def close(self) -> None:
        old = self.switch(None)
        if old is not None:
            old.close()

    def _answer(self, model: Model, inputs: Sequence[Input]) -> Answer:
        model, logits = self._logits(model, inputs)
        self._deaths = 0
        probabilities = softmax(logits.logits_BK, model.slot.manifest.temperature)
        return Answer(slot=model.slot, probabilities_BK=probabilities, run_s=logits.run_s)

    def _logits(self, model: Model, inputs: Sequence[Input]) -> tuple[Model, Logits]:
        """In a batch with whoever asks now; alone where that failed, so that one bad request costs no other its answer."""
        try:
            return model, self._batches.run(model, encode(model.slot.manifest.input, inputs))
        except BatchFailedError:
            with self._alone:  # one after the other: whose process ends now is the one to blame
                return self._again(model, inputs)
        except ModelDiedError:
            return self._again(model, inputs)

    def _again(self, model: Model, inputs: Sequence[Input]) -> tuple[Model, Logits]:
        if not model.alive:
            model = self._revive(model)
        try:
            return model, model.run(encode(model.slot.manifest.input, inputs))
        except ModelDiedError:
            self._deaths += 1
            raise

    def _revive(self, dead: Model) -> Model:
        """A living model in place of a dead one; of several callers one starts it."""
        with self._switch:
            current = self._model
            if current is None:
                raise NoModelError
            if current is not dead and current.alive:
                return current
            current.close()
            self._on_restart()
            try:
                self._model = self._start(current.slot, 0)
            except DeviceError as error:
                self._deaths += 1
                raise ModelDiedError(current.slot.digest, f"it does not start again: {error}") from error
            return self._model


def start_proven(start: StartModel, slot: Slot, prove: Callable[[Model], None]) -> Model:
    """A model that has loaded and is proven; one that is not is closed.

    Raises ModelDiedError, ModelRefusedError, and what `prove` raises.
    """
    model = start(slot, 0)
    try:
        prove(model)
    except BaseException:
        model.close()
        raise
    return model
