"""Who waits for the teacher: how many, for how long, and what becomes of them when it does not start, or ends while nobody looks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.kit.teacher_ends import FakeTeachers, probabilities
from workers.metrics import MetricsServer
from workers.orchestrator import answering
from workers.orchestrator.answering import BATCH_ROWS, Answering, TeacherDownError
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.question import read_question
from workers.orchestrator.refusals import OverloadedError
from workers.rpc import fleet_pb2

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(answering, "LOOK_S", 0.01)


@contextlib.asynccontextmanager
async def running(teachers: FakeTeachers, *, most: int = 1000) -> AsyncIterator[Answering]:
    one = Answering(teachers, most=most, metrics=OrchestratorMetrics(MetricsServer(host="127.0.0.1")))
    task = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(WAIT_S):
            yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def up(one: Answering) -> None:
    while one._facts is None:
        await asyncio.sleep(0.001)


def test_before_the_teacher_is_loaded_a_question_is_turned_away_at_once() -> None:
    async def scenario() -> None:
        teachers = FakeTeachers()
        teachers.may_start.clear()
        async with running(teachers) as one:
            with pytest.raises(TeacherDownError, match="not loaded yet"):
                await one.ask(b"hello", within_s=5)
            teachers.may_start.set()
            await up(one)
            assert await one.ask(b"hello", within_s=5) == pytest.approx(probabilities(b"hello"))

    asyncio.run(scenario())


def test_no_batch_is_larger_than_a_teacher_likes_or_mixes_shapes_and_each_caller_gets_its_own_answer() -> None:
    async def scenario() -> None:
        teachers = FakeTeachers()
        async with running(teachers) as one:
            await up(one)
            teachers.hold()
            wide = read_question(fleet_pb2.AskRequest(numbers=fleet_pb2.Numbers(values=[0.5] * 7)))
            questions = [b"x" * number for number in range(1, 2 * BATCH_ROWS)] + [wide] * 3
            calls = [asyncio.create_task(one.ask(question, within_s=WAIT_S)) for question in questions]
            await asyncio.sleep(0)
            teachers.go_on()
            for question, row in zip(questions, await asyncio.gather(*calls), strict=True):
                assert row == pytest.approx(probabilities(question))
        assert max(map(len, teachers.asked)) == BATCH_ROWS
        assert all(len({isinstance(question, bytes) for question in batch}) == 1 for batch in teachers.asked)

    asyncio.run(scenario())


def test_more_than_may_wait_are_turned_away_and_who_leaves_makes_room() -> None:
    async def scenario() -> None:
        teachers = FakeTeachers()
        async with running(teachers, most=2) as one:
            await up(one)
            teachers.hold()
            first, second = (asyncio.create_task(one.ask(b"hello", within_s=WAIT_S)) for _ in range(2))
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await one.ask(b"hello", within_s=5)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            third = asyncio.create_task(one.ask(b"hello", within_s=WAIT_S))
            await asyncio.sleep(0)
            teachers.go_on()
            await asyncio.gather(first, third)

    asyncio.run(scenario())


def test_a_question_that_waited_beyond_its_deadline_is_not_asked_even_if_nobody_cancelled_it() -> None:
    async def scenario() -> None:
        teachers = FakeTeachers()
        async with running(teachers) as one:
            await up(one)
            teachers.hold()
            first, late = (asyncio.create_task(one.ask(text, within_s=left_s)) for text, left_s in ((b"first", WAIT_S), (b"late", 0.0)))
            await asyncio.sleep(0)
            teachers.go_on()
            await first
            with pytest.raises(asyncio.CancelledError):
                await late
        assert b"late" not in [question for batch in teachers.asked for question in batch]

    asyncio.run(scenario())


def test_a_teacher_that_does_not_start_is_tried_again_after_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        teachers = FakeTeachers()
        teachers.starts_fail = 3
        async with running(teachers) as one:
            await up(one)
            assert len(teachers.opened) == 4
            assert all(end.is_closed for end in teachers.opened[:3])

    asyncio.run(scenario())
    told = [record for record in caplog.records if "started again" in record.getMessage()]
    assert [vars(record)["pause_s"] for record in told] == pytest.approx([0.001, 0.002, 0.004])
    assert "OSError" in vars(told[0])["why"]


def test_a_teacher_that_ended_while_nobody_asked_is_noticed_and_replaced() -> None:
    async def scenario() -> None:
        teachers = FakeTeachers()
        async with running(teachers) as one:
            await up(one)
            teachers.kill()
            while len(teachers.opened) < 2:
                await asyncio.sleep(0.001)
            await up(one)
            await one.ask(b"hello", within_s=5)

    asyncio.run(scenario())


def test_whoever_stops_while_the_teacher_hangs_ends_it() -> None:
    async def scenario() -> None:
        teachers = FakeTeachers()
        async with running(teachers) as one:
            await up(one)
            teachers.hold()
            call = asyncio.create_task(one.ask(b"hello", within_s=WAIT_S))
            await asyncio.to_thread(teachers.wait_asked)
        assert teachers.opened[0].is_closed
        with pytest.raises(TeacherDownError):
            await call

    asyncio.run(scenario())
