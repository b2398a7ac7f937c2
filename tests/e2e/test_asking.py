"""A device that is unsure asks a real teacher, over real TLS, and what it knows of their agreement reaches the orchestrator."""

import os
from functools import partial
from pathlib import Path

import pytest

from tests.kit.agent_process import AgentProcess
from tests.kit.bundles import text_probabilities, text_table
from tests.kit.orchestrators import RunningOrchestrator
from tests.kit.teachers import write_text_teacher
from workers.edge import questions
from workers.edge.allowance import MAX_WAIT_MS
from workers.edge.asking import AUDIT_TIMEOUT_S, MAX_UNDER_WAY
from workers.edge.local_client import LocalDevice
from workers.orchestrator import question
from workers.orchestrator.client import enrolment_files
from workers.orchestrator.limits import Limits
from workers.orchestrator.teacher_process import TeacherProcess, without_secrets

RUN = """
name = "mine"
classes = ["ham", "spam"]
stream = {path = "stream.jsonl"}
labelled = {path = "labelled.jsonl"}
validation = {path = "validation.jsonl"}
teacher = {use = "sklearn", path = "teacher"}
students = {small = {steps = 100}}
fleet = {ask = {teacher = true}, populations = {mail = {student = "small"}}}
"""
TEXTS = ["win free money now", "meeting about the kernel patch"]


@pytest.mark.slow  # an agent, its models and a teacher, each in a process of its own; the halves are tested without them
def test_an_unsure_device_answers_with_the_teacher_and_its_sync_tells_how_often_they_agree(tmp_path: Path) -> None:
    write_text_teacher(tmp_path / "teacher")
    run = tmp_path / "run.toml"
    run.write_text(RUN)
    with RunningOrchestrator(tmp_path / "fleet", open_teacher=partial(TeacherProcess, run, without_secrets(os.environ, tmp_path))) as fleet:
        file = tmp_path / "a.json"
        enrolment_files(fleet.operator, [file], host="127.0.0.1", population="mail", root=fleet.trust.root())
        target = fleet.release()
        options = "--ask-below", "1", "--ask-share", "1", "--asks-per-hour", "3600", "--ask-wait-ms", "20000"
        agent = AgentProcess(tmp_path / "device", file, *options)
        try:
            fleet.roll_out(target)
            fleet.wait_for(lambda: fleet.operator.get_rollout("r1").has_ended, timeout_s=30)
            registry = fleet.orchestrator._metrics_server.registry
            fleet.wait_for(lambda: registry.get_sample_value("kdpipe_orchestrator_teacher_up") == 1, timeout_s=60)
            with LocalDevice(agent.folder) as device:
                answer = device.predict(TEXTS)
                fleet.wait_for(lambda: device.status()["asking"]["answered"] == 4)
                asking = device.status()["asking"]
            (known,) = fleet.operator.get_fleet().devices
            fleet.wait_for(lambda: (told := fleet.operator.get_fleet().devices[0].serving) is not None and told.asked == 2)
            told = fleet.operator.get_fleet().devices[0].serving
        finally:
            agent.kill()
    own = [text_probabilities(text, text_table(1)) for text in TEXTS]
    assert (answer["predictions"], answer["by_teacher"], answer["digest"]) == (["spam", "ham"], [True, True], target.digest)
    assert known.running_digest == target.digest
    assert all(row != pytest.approx(mine, abs=1e-3) for row, mine in zip(answer["probabilities"], own, strict=True))
    assert (asking["asked"], asking["used"], asking["last_failure"]) == (4, 2, "")
    assert told is not None
    assert (told.answers, told.agreed) == (2, sum(mine.index(max(mine)) == right for mine, right in zip(own, (1, 0), strict=True)))
    assert told.confidence_mean == pytest.approx(sum(map(max, own)) / 2, abs=1e-4)


def test_a_device_asks_nothing_that_the_orchestrator_would_refuse() -> None:
    assert (questions.MAX_TEXT_BYTES, questions.MAX_NUMBERS) == (question.MAX_TEXT_BYTES, question.MAX_NUMBERS)
    assert max(AUDIT_TIMEOUT_S, MAX_WAIT_MS / 1000) <= Limits.ask_s
    assert Limits.device_calls_at_once > MAX_UNDER_WAY + 1
