"""A device asks the teacher, over real gRPC and real certificates: what it is told, whom the orchestrator refuses, who goes first."""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import pytest

from tests.kit.orchestrators import UNHURRIED, RunningOrchestrator, refused_with
from tests.kit.teacher_ends import FakeTeachers, probabilities
from tests.kit.wire_devices import SimulatedDevice
from workers.orchestrator import answering
from workers.orchestrator.pki import operator_credentials
from workers.orchestrator.question import MAX_NUMBERS, MAX_TEXT_BYTES
from workers.rpc import fleet_pb2, fleet_pb2_grpc

Numbers = fleet_pb2.Numbers
AskRequest = fleet_pb2.AskRequest


class Asked(RunningOrchestrator):
    """With a teacher that the test holds."""

    def __init__(self, folder: Path, teachers: FakeTeachers) -> None:
        super().__init__(folder, open_teacher=teachers)
        self.teachers = teachers

    def count(self, name: str, **labels: str) -> float:
        return self.orchestrator._metrics_server.registry.get_sample_value(f"kdpipe_orchestrator_{name}", labels) or 0.0

    def wait_up(self) -> None:
        self.wait_for(lambda: self.count("teacher_up") == 1)


@pytest.fixture(name="quick", autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "FIRST_PAUSE_S", 0.01)
        patch.setattr(answering, "LOOK_S", 0.02)
        yield


@pytest.fixture(name="every", scope="module")
def _every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with Asked(tmp_path_factory.mktemp("asked"), FakeTeachers()) as running:
        yield running


@pytest.fixture(name="asked")
def _asked(every: Asked) -> Iterator[Asked]:
    """One orchestrator for all; each test finds a teacher that is up and answers."""
    every.wait_up()
    yield every
    every.teachers.poison, every.teachers.silent = set(), False
    every.teachers.go_on()


@pytest.fixture(name="device")
def _device(asked: Asked) -> SimulatedDevice:
    (device,) = asked.devices(1)
    return device


def test_a_device_is_told_what_the_teacher_says_and_which_teacher_says_it(device: SimulatedDevice) -> None:
    answer = device.ask("buy now")
    assert list(answer.classes) == ["ham", "spam"]
    assert list(answer.probabilities) == pytest.approx(probabilities(b"buy now"))
    assert answer.teacher == "fake-1"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (AskRequest(), "input: none"),
        (AskRequest(text="é" * (MAX_TEXT_BYTES // 2 + 1)), f"at most {MAX_TEXT_BYTES}"),
        (AskRequest(numbers=Numbers()), "numbers: 0 of them"),
        (AskRequest(numbers=Numbers(values=[0.0] * (MAX_NUMBERS + 1))), f"{MAX_NUMBERS + 1} of them"),
        (AskRequest(numbers=Numbers(values=[1.0, float("nan"), float("inf")])), "2 that are not finite"),
    ],
)
def test_an_input_that_no_agent_sends_is_refused_and_never_reaches_the_teacher(
    asked: Asked, device: SimulatedDevice, request_: AskRequest, says: str
) -> None:
    before = len(asked.teachers.asked)
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT, says):
        device.ask(request_)
    assert len(asked.teachers.asked) == before


def test_numbers_are_none_of_a_teacher_of_texts(device: SimulatedDevice) -> None:
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION, "expected a text"):
        device.ask(AskRequest(numbers=Numbers(values=[1.0])))


def test_the_most_numbers_arrive_as_they_were_sent_and_nothing_hides_behind_them(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=MAX_NUMBERS).astype(np.float32)
    with Asked(tmp_path, FakeTeachers(kind="floats")) as asked:
        asked.wait_up()
        (device,) = asked.devices(1)
        device.ask(AskRequest(numbers=Numbers(values=values.tolist())))
        trailer = Numbers.FromString(Numbers(values=[1.0, 2.0]).SerializeToString() + b"\x12\x04\x00\x00\x80\x7f")  # an unknown field: inf
        device.ask(AskRequest(numbers=trailer))
        first, second = asked.teachers.asked
    assert np.array_equal(first[0], values)
    assert second[0] == pytest.approx([1.0, 2.0])


def test_a_question_without_an_end_is_refused(device: SimulatedDevice) -> None:
    for timeout_s in (None, 60.0):
        with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "within 30 s"):
            device.ask("hello", timeout_s=timeout_s)
    device.ask("hello", timeout_s=30.0)


def test_what_came_while_the_teacher_was_busy_goes_to_it_together(asked: Asked, device: SimulatedDevice) -> None:
    asked.teachers.hold()
    before = len(asked.teachers.asked)
    first = device.future_ask("first")
    asked.wait_for(lambda: len(asked.teachers.asked) == before + 1)
    rest = [device.future_ask(f"{number}") for number in range(5)]
    asked.wait_for(lambda: under_way(asked) == 6)
    asked.teachers.go_on()
    assert all(call.result().teacher for call in (first, *rest))
    assert sorted(asked.teachers.asked[before + 1]) == [b"0", b"1", b"2", b"3", b"4"]


def test_an_input_that_the_teacher_fails_on_is_refused_and_its_neighbours_are_answered(asked: Asked, device: SimulatedDevice) -> None:
    asked.teachers.poison = {b"poison"}
    asked.teachers.hold()
    calls = [device.future_ask(text) for text in ("first", "poison", "last")]
    asked.wait_for(lambda: under_way(asked) == 3)
    asked.teachers.go_on()
    assert [call.exception() is None for call in calls] == [True, False, True]
    assert calls[1].code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_question_whose_caller_has_gone_is_not_asked(asked: Asked, device: SimulatedDevice) -> None:
    asked.teachers.hold()
    first = device.future_ask("first")
    asked.wait_for(lambda: under_way(asked) == 1)
    late = asked.count("asks_total", outcome="late")
    with refused_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        device.ask("too late", timeout_s=0.1)
    asked.wait_for(lambda: under_way(asked) == 1)
    hung_up = device.future_ask("hung up")
    asked.wait_for(lambda: under_way(asked) == 2)
    hung_up.cancel()
    asked.wait_for(lambda: under_way(asked) == 1 and asked.count("asks_total", outcome="late") > late)
    asked.teachers.go_on()
    first.result()
    device.ask("next")
    assert {b"too late", b"hung up"}.isdisjoint(question for batch in asked.teachers.asked for question in batch)


def test_a_flood_of_questions_is_told_when_to_come_back_and_spares_the_others(asked: Asked) -> None:
    flooder, other = asked.devices(2)
    calls: list[Any] = []
    while len(calls) < 200 and not (calls and calls[-1].exception()):
        calls.append(flooder.future_ask("me"))
    assert 60 <= len(calls) < 200
    assert calls[-1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-retry-pushback-ms" in {pair.key for pair in calls[-1].trailing_metadata()}
    flooder.sync()
    other.ask("you")


def test_a_revoked_device_is_refused(asked: Asked, device: SimulatedDevice) -> None:
    asked.operator.revoke(device.device_id)
    with refused_with(grpc.StatusCode.PERMISSION_DENIED, "revoked"):
        device.ask("hello")


def test_who_is_no_device_asks_nothing(asked: Asked) -> None:
    _, credentials = operator_credentials(asked.folder / "fleet" / "pki")
    ends = asked.endpoints
    keys = {"key_pem": credentials.key_pem, "certificate_pem": credentials.certificate_pem}
    with ends.mutual(ends.fleet, **keys) as channel, refused_with(grpc.StatusCode.PERMISSION_DENIED, "a device's"):
        fleet_pb2_grpc.TeacherStub(channel).Ask(AskRequest(text="hello"), timeout=5)
    with (
        grpc.secure_channel(f"{ends.host}:{ends.fleet}", grpc.ssl_channel_credentials(ends.ca_pem)) as channel,
        refused_with(grpc.StatusCode.UNAVAILABLE),
    ):
        fleet_pb2_grpc.TeacherStub(channel).Ask(AskRequest(text="hello"), timeout=5)


def test_where_no_teacher_was_asked_for_a_question_is_told_so(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION, "--teacher"):
        device.ask("hello")


def test_a_teacher_that_dies_under_questions_fails_them_and_the_next_one_answers(asked: Asked, device: SimulatedDevice) -> None:
    restarts = asked.count("teacher_restarts_total")
    asked.teachers.hold()
    calls = [device.future_ask(text) for text in ("asked", "waits")]
    asked.wait_for(lambda: under_way(asked) == 2)
    asked.teachers.kill()
    assert [call.exception().code() for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 2
    asked.teachers.go_on()
    asked.wait_for(lambda: asked.count("teacher_restarts_total") > restarts)
    asked.wait_up()
    device.ask("again")


def test_what_is_wrong_with_the_teacher_is_not_told_to_devices(asked: Asked, device: SimulatedDevice) -> None:
    asked.teachers.silent = True
    with pytest.raises(grpc.RpcError) as refused:
        device.ask("hello")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "10.0.0.7" not in str(refused.value.details())
    asked.teachers.silent = False
    device.ask("hello")


def test_while_the_teacher_hangs_and_as_many_wait_as_may_sync_is_as_fast_as_ever(asked: Asked) -> None:
    *askers, one_more, other = asked.devices(UNHURRIED.asks_at_once // UNHURRIED.device_calls_at_once + 2)
    alone_s = sync_s(other)
    asked.teachers.hold()
    calls = [device.future_ask("hello") for device in askers for _ in range(UNHURRIED.device_calls_at_once)]
    asked.wait_for(lambda: under_way(asked) == UNHURRIED.asks_at_once)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "wait for the teacher"):
        one_more.ask("hello")
    assert sync_s(other) < 3 * alone_s + 0.02
    askers[0].sync()
    other.sync(other.report("CHECK"))
    other.metadata("timestamp.json")
    assert not any(call.done() for call in calls)
    asked.teachers.go_on()
    assert all(call.exception() is None for call in calls)


def sync_s(device: SimulatedDevice) -> float:
    """Median of some Syncs."""
    took_s = []
    for _ in range(21):
        began_s = time.perf_counter()
        device.sync()
        took_s.append(time.perf_counter() - began_s)
    return median(took_s)


def under_way(asked: Asked) -> int:
    """Questions that wait for the teacher, or that it is answering."""
    answering_ = asked.orchestrator._answering
    assert answering_ is not None
    return answering_._under_way
