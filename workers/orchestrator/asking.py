"""What devices ask the teacher: one input, and what the teacher says about it. Advice: nothing that anybody installs or keeps.

Answered from memory and a process of its own; no database. Left to others: who waits for whom (`answering`), who may call (`gate`). Of the
orchestrator's calls these are the first to be turned away: a device that is refused answers by itself.
"""

import asyncio
import math
import time
from typing import Any

import grpc

from pipeline.errors import FleetError
from workers.orchestrator.answering import Answering, NoAnswerError, TeacherDownError
from workers.orchestrator.identity import caller
from workers.orchestrator.limits import Buckets, Limits, RateExceededError, of_all
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.question import Question, read_question
from workers.orchestrator.refusals import OverloadedError
from workers.orchestrator.reports import BodyRefusedError
from workers.rpc import fleet_pb2, fleet_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
ROUNDING_S = 1.0
"""gRPC rounds a deadline up on its way: who asks within the longest that is allowed must not be refused for that."""


class NoTeacherError(FleetError):
    """Nobody answers questions here."""

    def __str__(self) -> str:
        return "this orchestrator has no teacher; expected one started with --teacher (`fleet.ask.teacher` in the run file)"


class OtherKindError(FleetError):
    """The teacher eats other inputs."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return f"input: {self.found}; expected {self.expected}, the kind of input that the teacher eats"


class Teacher(fleet_pb2_grpc.TeacherServicer):
    """Ask."""

    def __init__(self, *, answering: Answering | None, limits: Limits, metrics: OrchestratorMetrics) -> None:
        self._answering, self._limits, self._metrics = answering, limits, metrics
        self._of_one = Buckets(per_s=limits.device_asks_per_s, burst=limits.device_asks_burst)
        self._of_all = of_all(limits.asks_per_s)

    async def Ask(self, request: fleet_pb2.AskRequest, context: Context) -> fleet_pb2.AskResponse:
        began_s, outcome = time.monotonic(), "failed"
        try:
            answer = await self._answer(request, context)
            outcome = "answered"
        except asyncio.CancelledError:
            outcome = "late"  # its caller has gone, or its deadline is over
            raise
        except FleetError as error:
            outcome = _outcome(error)
            raise
        finally:
            self._metrics.asked(outcome, time.monotonic() - began_s)
        return answer

    async def _answer(self, request: fleet_pb2.AskRequest, context: Context) -> fleet_pb2.AskResponse:
        if self._answering is None:
            raise NoTeacherError
        left_s, most_s = context.time_remaining() or math.inf, self._limits.ask_s  # None where there is no deadline
        if left_s > most_s + ROUNDING_S:
            raise BodyRefusedError("deadline", f"in {left_s:.0f} s", f"one within {most_s:g} s")
        now_s = time.monotonic()
        self._of_one.take(caller().name, "this device, with so many questions,", now_s=now_s)
        facts = self._answering.facts()
        question = read_question(request)
        _check_kind(question, facts.kind)
        self._of_all.take("all", "the fleet, with so many questions,", now_s=now_s)
        row_K = await self._answering.ask(question, within_s=min(left_s, most_s))
        return fleet_pb2.AskResponse(classes=facts.classes, probabilities=row_K.tolist(), teacher=facts.fingerprint)


def _check_kind(question: Question, kind: str) -> None:
    """Raises OtherKindError."""
    found = "text" if isinstance(question, bytes) else "floats"
    if found != kind:
        names = {"text": "a text", "floats": "numbers"}
        raise OtherKindError(names[found], names[kind])


def _outcome(error: FleetError) -> str:
    match error:
        case RateExceededError() | OverloadedError():
            return "limited"
        case TeacherDownError():
            return "down"
        case BodyRefusedError() | NoAnswerError() | OtherKindError():
            return "refused"
        case _:
            return "off"
