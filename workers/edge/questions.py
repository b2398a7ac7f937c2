"""Questions to the teacher, put and answered: within an allowance, on the device's line to its fleet, in the order of a release's classes.

Nothing here decides which inputs are asked about (`asking`). An answer counts only if it is of the classes that the release knows; whatever
else comes back, or nothing, is no answer, and after it the allowance lets nothing through for a while.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DeviceError
from pipeline.releases.manifest import BundleManifest
from workers.edge.allowance import Allowance
from workers.edge.fleet_client import FleetLateError, FleetRefusedError, FleetUnreachableError
from workers.edge.inputs import Input
from workers.edge.tally import Tally, Way
from workers.rpc import fleet_pb2 as pb

MAX_TEXT_BYTES, MAX_NUMBERS = 64 << 10, 65_536
"""A longer input is not asked about: the orchestrator would refuse it."""
MAX_SUM_OFF = 1e-3

# K classes, in the release's order.

Asked = pb.AskResponse | FleetRefusedError | FleetUnreachableError
"""What became of one question."""


class Line(Protocol):
    """The device's line to its teacher; `connection.Connection` on a device."""

    def ask(self, requests: Sequence[pb.AskRequest], timeout_s: float) -> Sequence[Asked]: ...


class AnswerUnusableError(DeviceError):
    """The teacher answered, and the release cannot use it."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return f"the teacher's answer: {self.found}; expected {self.expected}; the device's own answers stand; tell the operator"


class Questions:
    """One way's questions. Thread-safe."""

    def __init__(self, way: Way, *, line: Line, allowance: Allowance, tally: Tally) -> None:
        self._way, self._line, self._allowance, self._tally = way, line, allowance, tally

    def put(self, inputs: Sequence[Input], manifest: BundleManifest, timeout_s: float) -> list[NDArray[np.float32] | None]:
        """The teacher's probabilities [K] of each input, or None where it was not asked or gave none that can be used.

        Asked are the first inputs, as many as are allowed, all at once. Returns within `timeout_s`; raises nothing that a line does not.
        """
        found: list[NDArray[np.float32] | None] = [None] * len(inputs)
        short = [row for row, value in enumerate(inputs) if is_short(value)]
        self._tally.count(self._way, "too_long", len(inputs) - len(short))
        leave = self._allowance.admit(len(short))
        going = short[: leave.count]
        self._tally.count(self._way, leave.denied, len(short) - len(going))
        if not going:
            return found
        is_reached, failure = False, ""
        try:
            heard = self._line.ask([request_of(inputs[row]) for row in going], timeout_s)
            for row, asked in zip(going, heard, strict=True):
                usable = self._usable(asked, manifest)
                if isinstance(usable, str):
                    failure = usable
                else:
                    found[row] = usable
                is_reached |= not isinstance(usable, str) or _is_about_the_input(asked)
        finally:
            if is_reached:
                self._allowance.reached()
            else:
                self._allowance.failed(leave)
        self._tally.heard(asked=len(going), answered=sum(one is not None for one in found), failure=failure)
        return found

    def _usable(self, asked: Asked, manifest: BundleManifest) -> NDArray[np.float32] | str:
        """Probabilities, or why there are none; counted."""
        if isinstance(asked, FleetRefusedError):
            self._tally.count(self._way, "refused")
            return f"{asked.status} {asked.found}"
        if isinstance(asked, FleetUnreachableError):
            self._tally.count(self._way, "late" if isinstance(asked, FleetLateError) else "unreachable")
            return asked.found
        try:
            probabilities_K = in_order(asked, manifest.classes)
        except AnswerUnusableError as error:
            self._tally.count(self._way, "unusable")
            self._tally.warn_once(str(error))
            return str(error)
        self._tally.count(self._way, "answered")
        return probabilities_K


def is_short(value: Input) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT_BYTES and len(value.encode()) <= MAX_TEXT_BYTES
    return len(value) <= MAX_NUMBERS


def request_of(value: Input) -> pb.AskRequest:
    """The whole input, as the model was asked; a student may read less of it than the teacher."""
    if isinstance(value, str):
        return pb.AskRequest(text=value)
    return pb.AskRequest(numbers=pb.Numbers(values=value))


def in_order(answer: pb.AskResponse, classes: Sequence[str]) -> NDArray[np.float32]:
    """The teacher's probabilities [K] in the order of `classes`. Raises AnswerUnusableError."""
    place = {name: number for number, name in enumerate(answer.classes)}
    if place.keys() != set(classes) or len(answer.classes) != len(classes):
        found = ", ".join(answer.classes)[:200] or "none"
        raise AnswerUnusableError(f"it knows the classes {found}", f"those of the release: {', '.join(classes)[:200]}")
    if len(answer.probabilities) != len(classes):
        raise AnswerUnusableError(f"{len(answer.probabilities)} probabilities", f"{len(classes)}, one for each class")
    said_K = np.asarray(answer.probabilities, dtype=np.float32)[[place[name] for name in classes]]
    if not (np.isfinite(said_K).all() and (said_K >= 0).all() and abs(float(said_K.sum()) - 1) <= MAX_SUM_OFF):
        raise AnswerUnusableError("numbers that are no probabilities", "none below 0, with a sum of 1")
    return said_K


def _is_about_the_input(asked: Asked) -> bool:
    """The teacher refused one input, and would answer another."""
    return isinstance(asked, FleetRefusedError) and asked.status == "INVALID_ARGUMENT"
