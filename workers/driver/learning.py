"""Label while training: the students' trainers first, then the teachers, both until the generation's labels are all learnt.

Each trainer is a thread around Ray Train, the labelling is one more; this module only starts them, watches and reports. A
student that fails does not stop the others. A killed driver loses nothing: the log and the checkpoints say where each was.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import KdpipeError
from pipeline.files import refused
from pipeline.labels.verify import TeacherCost
from workers.board import Board, TrainingProgress, start_board
from workers.driver.context import RunContext
from workers.driver.reporter import Gauge
from workers.driver.worker_logs import link_ray_logs
from workers.labelling import Demand, Labelling, LabellingOutcome, LabellingProgress
from workers.training import TrainingSpec, train_student

logger = logging.getLogger(__name__)

POLL_S = 0.1
STOP_GRACE_S = 5.0
RATE_LEAST_S = 1.0
"""Labels that all came sooner after the first commit give no rate: it would say how fast they were committed."""


class StageCrashedError(KdpipeError):
    """A stage ended in an error that is not ours to name."""

    def __init__(self, stage: str, found: str) -> None:
        super().__init__(stage, found)
        self.stage, self.found = stage, found

    def __str__(self) -> str:
        return f"{self.stage}: {self.found}; expected no such error; `kdpipe logs DIR driver` has its trace; run again to go on"


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What came of labelling and training one generation."""

    labelling: LabellingOutcome | None
    """None where every student failed before a label was asked for."""
    failed: Mapping[str, KdpipeError]
    """Students whose training ended in an error."""
    progress: Mapping[str, TrainingProgress]

    def to_json(self, cost: TeacherCost) -> dict[str, Any]:
        """Figures of the generation: `cost` is what the log says of its labels, over every process that made some."""
        first, last = cost.first_commit_unix_s, cost.last_commit_unix_s
        took_s = last - first if first is not None and last is not None else 0.0
        return {
            "teacher_rows": cost.rows - cost.rows_reused,
            "rows_reused": cost.rows_reused,
            "teacher_s": cost.teacher_s,
            "rows_per_s": (cost.rows - cost.rows_first) / took_s if took_s >= RATE_LEAST_S else None,
            "repaired": list(self.labelling.repaired) if self.labelling else [],
            "overlap": self._overlap(first, last),
        }

    def _overlap(self, first_commit_unix_s: float | None, last_commit_unix_s: float | None) -> dict[str, float] | None:
        """How long labels were made while students already stepped; of students that this process saw."""
        firsts = [p.first_step_unix_s for p in self.progress.values() if p.first_step_unix_s]
        lasts = [p.last_step_unix_s for p in self.progress.values() if p.last_step_unix_s]
        if not firsts or not lasts or first_commit_unix_s is None or last_commit_unix_s is None:
            return None
        both_s = min(last_commit_unix_s, max(lasts)) - max(first_commit_unix_s, min(firsts))
        return {
            "labelling_s": round(last_commit_unix_s - first_commit_unix_s, 3),
            "training_s": round(max(lasts) - min(firsts), 3),
            "both_s": round(max(0.0, both_s), 3),
            "first_step_after_commit_s": round(min(firsts) - first_commit_unix_s, 3),
        }


def label_and_train(context: RunContext, labelling: Labelling, specs: Mapping[str, TrainingSpec]) -> Learning:
    """Run both to their end, on the run's cluster. Raises what labelling raises, and StoppedError.

    On any exception the caller closes the cluster, which ends every actor; the threads end with it.
    """
    context.cluster.ensure()
    link_ray_logs(context.folder.logs)
    return learn(context, labelling, specs, board=start_board())


def learn(context: RunContext, labelling: Labelling, specs: Mapping[str, TrainingSpec], *, board: Board) -> Learning:
    """What `label_and_train` does, once there is a cluster and a board."""
    trainers = {name: _Task(functools.partial(train_student, spec, board=board), f"train {name}") for name, spec in specs.items()}
    latest: dict[str, LabellingProgress] = {}

    def snapshot() -> dict[str, TrainingProgress]:
        return board.snapshot()

    def label() -> LabellingOutcome | None:
        while not any(p.ready for p in snapshot().values()) and any(task.alive for task in trainers.values()):
            if context.stop.wait(POLL_S):
                return None
        if trainers and all(task.error for task in trainers.values()):
            return None  # nobody is left to learn: do not spend the teacher's time
        outcome = labelling.run(demand=lambda: demand_of(snapshot()), progress=lambda now: latest.update(now=now), stop=context.stop)
        asked = set(outcome.repaired)
        while any(task.alive for task in trainers.values()) and not context.stop.wait(POLL_S):
            bad = demand_of(snapshot()).corrupt - asked
            if bad:  # a reader met a bad shard after the last label was made
                asked |= bad
                again = labelling.repair(bad, progress=lambda now: latest.update(now=now), stop=context.stop)
                outcome = replace(outcome, repaired=(*outcome.repaired, *again.repaired))
        return outcome

    labeller = _Task(label, "label")
    tasks = [labeller, *trainers.values()]
    while any(task.alive for task in tasks):
        if context.stop.is_set():
            _let_stop(board, tasks)
            context.check_stop()
        if labeller.error:
            raise labeller.error
        students = snapshot()
        context.reporter.show(gauges(latest.get("now"), students))
        context.metrics.tell(latest.get("now"), students)
        context.stop.wait(POLL_S)
    context.check_stop()
    if labeller.error:
        raise labeller.error
    failed = {name: task.error for name, task in trainers.items() if task.error}
    return Learning(labelling=labeller.result, failed=failed, progress=snapshot())


def _let_stop(board: Board, tasks: Sequence["_Task"]) -> None:
    """Give trainers a moment to write a checkpoint; what they do not write, they train again."""
    board.stop()
    deadline_s = time.monotonic() + STOP_GRACE_S
    while any(task.alive for task in tasks) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def demand_of(students: Mapping[str, TrainingProgress]) -> Demand:
    """What the trainers need of the labelling: only those in training count."""
    training = {name: p for name, p in students.items() if p.in_training}
    corrupt = frozenset(shard for p in students.values() for shard in p.corrupt)
    starved = any(p.starved for p in training.values())
    return Demand(cursors={name: p.live_rows for name, p in training.items()}, starved=starved, corrupt=corrupt)


def gauges(labelling: LabellingProgress | None, students: Mapping[str, TrainingProgress]) -> list[Gauge]:
    """The bars of this stage: labels of total, and each student's step, loss and lag behind the log."""
    rows: list[Gauge] = []
    committed = 0
    if labelling:
        committed = labelling.generation_rows
        says = [
            f"{labelling.rows_per_s:,.0f}/s lately" if labelling.rows_per_s and labelling.rows_committed < labelling.rows_planned else "",
            f"{labelling.rows_reused:,} were known" if labelling.rows_reused else "",
            labelling.says,
        ]
        rows.append(Gauge(name="labels", done=labelling.rows_committed, total=labelling.rows_planned, says=" · ".join(filter(None, says))))
    for name, progress in sorted(students.items()):
        lag = max(0, committed - progress.live_rows)
        loss = f"loss {progress.loss:.3f} · " if progress.loss is not None else ""
        loss += f"{progress.workers} workers · " if progress.workers > 1 else ""
        rows.append(
            Gauge(
                name=name,
                done=progress.step,
                total=progress.steps,
                says=f"{loss}lag {lag:,} rows · {progress.says or progress.state.lower()}",
            )
        )
    return rows


class _Task:
    """A thread whose result or error is kept. Daemonic: a task that hangs never keeps the driver from ending."""

    def __init__(self, act: Callable[[], Any], name: str) -> None:
        self.result: Any = None
        self.error: KdpipeError | None = None
        self._act = act
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.result = self._act()
        except KdpipeError as error:
            self.error = error
        except Exception as error:
            logger.exception("a stage crashed", extra={"stage": self._thread.name})
            told = refused(error) if isinstance(error, OSError) else None
            self.error = told or StageCrashedError(self._thread.name, f"{type(error).__name__}: {error}")
