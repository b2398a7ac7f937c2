"""Students that learn at once from labels that are still made, without Ray: one fails, and nobody waits for it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import workers.training
from pipeline.config import StudentSection
from pipeline.labels.log import LogReader
from pipeline.labels.store import open_store
from pipeline.labels.verify import TeacherCost
from pipeline.students.faults import StudentRaisedError
from tests.kit.labelling import Bench, MemorySource
from tests.kit.training import training_spec
from workers.board import BoardState, TrainingState
from workers.driver.learning import Learning, demand_of, learn
from workers.teaching import TrainingSpec

ROWS, BATCH, STEPS = 400, 8, 60
TINY = {"max_bytes": 32, "width": 8, "embedding": 4}
BREAKS = """
import torch


class Breaks(torch.nn.Module):
    max_bytes = 8

    def __init__(self, classes):
        super().__init__()
        self.head, self.learnt = torch.nn.Linear(8, classes), 0

    def forward(self, inputs):
        self.learnt += self.training
        if self.learnt > 5:
            raise ValueError("no such token: 17")
        return self.head(inputs.float())
"""


class Context:
    """As much of a run's context as learning looks at. Is its own reporter and metrics."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.reporter = self.metrics = self

    def check_stop(self) -> None:
        assert not self.stop.is_set()

    def show(self, gauges: Any) -> None: ...

    def tell(self, labelling: Any, students: Any) -> None: ...


def spec_of(folder: Path, name: str, **section: Any) -> TrainingSpec:
    options: dict[str, Any] = {"options": TINY, "batch": BATCH, "steps": STEPS, "warmup_steps": 2} | section
    return replace(training_spec(folder, StudentSection(**options), name=name), storage=folder / name)


def bench_in(folder: Path) -> Bench:
    """Its lead is far shorter than the source."""
    (folder / "labels").mkdir()
    texts = [f"mail {number}" for number in range(ROWS)]
    return Bench(open_store(str(folder / "labels")), MemorySource({"mail": texts}), unit_rows=4, workers_max=1, lead_max=44)


@pytest.fixture(autouse=True)
def _here_instead_of_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.training, "_fit", lambda spec, board: workers.training.work(spec, board, rank=0, world=1))


def test_a_student_that_raises_ends_alone_and_its_cursor_holds_no_label_back(tmp_path: Path) -> None:
    (tmp_path / f"breaks_{tmp_path.name}.py").write_text(BREAKS)
    breaks = spec_of(tmp_path, "breaks", use=f"breaks_{tmp_path.name}:Breaks", options={})
    bench, board = bench_in(tmp_path), BoardState()
    labelling = bench.labelling()
    labelling.plan()
    context: Any = Context()
    learning = learn(context, labelling, {"good": spec_of(tmp_path, "good"), "breaks": breaks}, board=board)  # type: ignore[arg-type]
    assert list(learning.failed) == ["breaks"]
    error = learning.failed["breaks"]
    assert isinstance(error, StudentRaisedError)
    assert error.exit_code == 6
    assert "no such token: 17 (" in str(error)
    assert ") at step 5; expected one row of logits for each input" in str(error)
    failed, good = learning.progress["breaks"], learning.progress["good"]
    assert (failed.state, failed.says[:15]) == (TrainingState.FAILED, "student breaks:")
    assert (good.state, good.step, good.live_rows) == (TrainingState.DONE, STEPS, ROWS)
    assert learning.labelling is not None
    assert learning.labelling.ended
    assert LogReader(bench.store).refresh().rows_labelled == ROWS
    assert not demand_of({"breaks": failed}).cursors


def test_where_every_student_fails_before_a_label_the_teacher_is_asked_nothing(tmp_path: Path) -> None:
    bench, board = bench_in(tmp_path), BoardState()
    labelling = bench.labelling()
    labelling.plan()
    context: Any = Context()
    learning = learn(context, labelling, {"wrong": spec_of(tmp_path, "wrong", loss={"kll": 1.0})}, board=board)  # type: ignore[arg-type]
    assert learning.labelling is None
    assert list(learning.failed) == ["wrong"]
    assert bench.teacher.asked == []


@pytest.mark.parametrize(("last_unix_s", "rate"), [(12.0, 45.0), (10.5, None)])
def test_a_rate_is_of_what_came_after_the_first_commit_over_a_second_at_least(last_unix_s: float, rate: float | None) -> None:
    cost = TeacherCost(rows=100, rows_first=10, rows_reused=0, teacher_s=1.0, first_commit_unix_s=10.0, last_commit_unix_s=last_unix_s)
    assert Learning(labelling=None, failed={}, progress={}).to_json(cost)["rows_per_s"] == rate
