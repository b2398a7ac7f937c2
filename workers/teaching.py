"""A trainer's body, without Ray: from the newest checkpoint, the incumbent's weights or afresh, to the final weights.

Labels are awaited by polling the log; the board is told; a checkpoint is written every so many steps. Beside the thread that trains,
one reads and decodes the next batch and one writes the last checkpoint; both end with it. Checkpoints are our own files
(`pipeline.students.checkpoint`), atomic and exact, under `storage/NAME-GENERATION/`: whatever was killed, the same call goes on from
the newest. The final weights are written to `spec.out`, their sidecar last. A full disk is waited out, never a reason to fail. Left
to others: where it runs (`workers.training`).
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.config import TRAINING_RESOURCES, StudentSection
from pipeline.files import DISK_FULL
from pipeline.inputs import InputKind
from pipeline.labels.prefetch import ReadingAhead
from pipeline.labels.reader import LabelReader, LogEmptyError
from pipeline.labels.shard import ShardCorruptError
from pipeline.labels.store import open_store
from pipeline.references import source_of
from pipeline.students.checkpoint import (
    CheckpointInvalidError,
    Trained,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_trained,
    save_weights,
)
from pipeline.students.faults import StudentEditedError
from pipeline.students.loop import Moved, Reader, Trainer, load_model
from pipeline.students.models import StudentSpec, build_student
from workers.board import TrainingProgress, TrainingState
from workers.checkpointing import Checkpointing

logger = logging.getLogger(__name__)

POLL_S = 0.03
REPORT_EVERY_S = 0.3
FULL_POLL_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """One student's training in one generation."""

    name: str
    student: StudentSection
    source: str
    """`pipeline.references.source_of` the student, of when the run began: its code is the same in every worker and in the driver."""
    classes: tuple[str, ...]
    kind: InputKind
    store_url: str
    generation: int
    seed: int
    base: Path
    storage: Path
    """Folder for checkpoints, shared between the machines of the cluster."""
    warm_start: Path | None
    """Weights to start from, if any: the incumbent's."""
    mixed_teachers: bool
    """Whether labels of different teachers may be learnt from."""
    out: Path
    """Where the final weights go; the sidecar beside them says how they came about."""
    rivals: tuple[int, ...] = ()
    """Least numbers of workers of the run's other elastic students."""
    log: str = ""
    """Id of the labels' log, as the driver sees it; empty where there was none yet."""
    proof: str = ""
    """Name of a file that the driver left in `folder` for its workers to see."""

    @property
    def folder(self) -> Path:
        return self.storage / f"{self.name}-{self.generation:06d}"

    @property
    def checkpoints(self) -> Path:
        return self.folder / f"checkpoints-{self.digest()}"

    def digest(self) -> str:
        """Names everything that decides what the weights will be, but for the labels."""
        section = self.student.model_dump(mode="json", exclude=set(TRAINING_RESOURCES))
        warm = hashlib.sha256(self.warm_start.read_bytes()).hexdigest() if self.warm_start else None
        made_of = [section, self.classes, self.kind, self.generation, self.seed, warm, *([self.source] if self.source else [])]
        return hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=8).hexdigest()


class Reports(Protocol):
    """The part of the board that a trainer writes to."""

    def report(self, student: str, progress: TrainingProgress) -> bool: ...


def teach(
    spec: TrainingSpec,
    *,
    board: Reports,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    sleep: Callable[[float], None],
    rank: int = 0,
    world: int = 1,
    reduce: Callable[[Tensor], None] | None = None,
    reader: Reader | None = None,
) -> Trained | None:
    """A worker's body: from the newest checkpoint, the incumbent's weights or afresh, to the final weights. None if told to stop.

    Raises StudentEditedError, and what `Trainer` and the reader raise. A shard that went bad is no error: it waits for the repair and says
    so on the board.
    """
    session = _Session(
        spec, board=board, clock=clock, wall_clock=wall_clock, sleep=sleep, rank=rank, world=world, reduce=reduce, reader=reader
    )
    try:
        return _to_the_end(session)
    finally:
        session.close()


def _to_the_end(session: "_Session") -> Trained | None:
    """Steps until there are none left, or it is told to stop: between two steps, or while it waits for labels."""
    go_on = session.report(TrainingState.WAITING)
    while go_on:
        try:
            moved = session.advance()
        except (ShardCorruptError, LogEmptyError) as error:
            corrupt = (error.shard,) if isinstance(error, ShardCorruptError) else ()
            go_on = session.report(TrainingState.WAITING, corrupt=corrupt, says=str(error))
            session.pause()
            continue
        if moved is Moved.DONE:
            return session.finish()
        if moved is Moved.WAITING:
            go_on = session.report(TrainingState.WAITING)
            session.pause()
        else:
            session.report(TrainingState.TRAINING)
            go_on = session.all_go_on
    session.checkpoint()
    session.settle()
    session.report(TrainingState.STOPPED)
    return None


class _Session:
    """One worker's trainer with its times, checkpoints and reports."""

    def __init__(
        self,
        spec: TrainingSpec,
        *,
        board: Reports,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        sleep: Callable[[float], None],
        rank: int,
        world: int,
        reduce: Callable[[Tensor], None] | None,
        reader: Reader | None,
    ) -> None:
        self._spec, self._board, self._clock, self._wall_clock, self._sleep = spec, board, clock, wall_clock, sleep
        self._rank, self._world = rank, world
        self._device = torch.device("cuda" if spec.student.gpus and torch.cuda.is_available() else "cpu")
        self._digest = spec.digest()
        self._folder = spec.checkpoints
        if source_of(spec.student.use, base=spec.base) != spec.source:
            raise StudentEditedError(spec.name, spec.student.use)
        student_spec = StudentSpec(
            name=spec.name, section=spec.student, classes=spec.classes, kind=spec.kind, base=spec.base, seed=spec.seed
        )
        self._student = build_student(student_spec)
        for warning in self._student.warnings:
            logger.warning("a student that depends on how it is trained", extra={"student": spec.name, "warning": warning})
        self._warnings, self._says = self._student.warnings, ""
        state = self._newest()
        self._times: dict[str, Any] = state.pop("times") if state else {"seconds": 0.0, "first": None, "last": None}
        if state is None and spec.warm_start is not None:
            load_model(spec.name, self._student, load_weights(spec.warm_start))
        self._reader = ReadingAhead(reader or _log_reader(spec, rank=rank, world=world))
        self._checkpoints = Checkpointing(lambda state: save_checkpoint(self._folder, state))
        self._trainer = Trainer(
            name=spec.name,
            student=self._student,
            section=spec.student,
            classes=spec.classes,
            reader=self._reader,
            seed=spec.seed,
            state=state,
            rank=rank,
            world=world,
            reduce=None if reduce is None else self._add_up,
            device=self._device,
        )
        self._reduce = reduce
        if reduce is not None:
            self._agree(reduce, world)
        self._begun_step = -1
        """Of the newest checkpoint that was begun."""
        self._reported_s = float("-inf")
        self._reported: tuple[TrainingState, tuple[str, ...]] | None = None
        self._go_on = True
        self._nobody_stops = True
        """As of the last step."""

    @property
    def all_go_on(self) -> bool:
        """No worker has been told to stop. Several find it out in the same step, or one would wait for another in a collective."""
        return self._go_on if self._world == 1 else self._nobody_stops

    def _add_up(self, flat: Tensor) -> None:
        """Sum over all workers, and along with it who was told to stop."""
        assert self._reduce is not None
        with_stops = torch.cat([flat, flat.new_tensor([0.0 if self._go_on else 1.0])])
        self._reduce(with_stops)
        flat.copy_(with_stops[:-1])
        self._nobody_stops = not with_stops[-1].item()

    def _agree(self, reduce: Callable[[Tensor], None], world: int) -> None:
        """All workers go on from the same step. Raises RuntimeError where not, so that they are started again.

        A worker of an earlier start that nobody can reach may write its last checkpoint between the looks of two of them.
        """
        step = self._trainer.step
        steps = torch.tensor([step], dtype=torch.float64, device=self._device)
        reduce(steps)
        if steps.item() != step * world:
            raise RuntimeError(
                f"this worker found a checkpoint of step {step}, all {world} together {steps.item():.0f}; expected the same one"
            )

    def advance(self) -> Moved:
        if not self._checkpoints.writing:
            self.settle()
        began_s = self._clock()
        moved = self._trainer.advance()
        if moved in (Moved.STEPPED, Moved.SKIPPED):
            now_unix_s = self._wall_clock()
            self._times["seconds"] += self._clock() - began_s
            self._times["first"] = self._times["first"] or now_unix_s
            self._times["last"] = now_unix_s
            if self._trainer.step % self._spec.student.checkpoint_every_steps == 0:
                self.checkpoint()
        return moved

    def pause(self) -> None:
        """Before the log is looked at again."""
        self._sleep(POLL_S)

    def checkpoint(self) -> None:
        """Begin to make the state durable, once the one before is; by rank 0, the same on all ranks.

        Not, where the disk is full and the run is told to stop.
        """
        if self._rank == 0 and self._trainer.step != self._begun_step and self.settle():
            self._begun_step = self._trainer.step
            self._checkpoints.begin({**self._trainer.state(), "times": dict(self._times)})

    def settle(self) -> bool:
        """Wait for the checkpoint that is being written. False where the disk is full and the run is told to stop."""
        self._write(self._checkpoints.settle)
        return self._checkpoints.settled

    def close(self) -> None:
        """End the threads. A checkpoint that is being written is still written."""
        self._reader.close()
        self._checkpoints.close()

    def _write(self, write: Callable[[], T]) -> T | None:
        """What `write` returns. Where the disk is full, once there is room again; None if the run is told to stop before."""
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
            if not self.report(TrainingState.TRAINING, says="paused: the disk of the checkpoints is full"):
                return None
            self._sleep(FULL_POLL_S)

    def report(self, state: TrainingState, *, corrupt: tuple[str, ...] = (), says: str = "") -> bool:
        """Tell the board, now and then, and at once when something changed. False: stop."""
        now_s = self._clock()
        changed = (state, corrupt) != self._reported
        first = self._trainer.step <= 1
        if not (changed or first) and now_s - self._reported_s < REPORT_EVERY_S:
            return self._go_on
        self._reported, self._reported_s = (state, corrupt), now_s
        trainer = self._trainer
        self._go_on = self._board.report(
            self._spec.name,
            TrainingProgress(
                state=state,
                step=trainer.step,
                steps=self._spec.student.steps,
                live_rows=trainer.live_rows,
                rows=trainer.rows,
                epoch=trainer.epoch,
                skipped=trainer.skipped,
                workers=self._world,
                loss=None if trainer.loss != trainer.loss else trainer.loss,
                first_step_unix_s=self._times["first"],
                last_step_unix_s=self._times["last"],
                corrupt=corrupt,
                says=says or self._says,
            ),
        )
        return self._go_on

    def finish(self) -> Trained | None:
        """Write the weights, then the sidecar, then say so. None where the disk is full and the run is told to stop."""
        spec, trainer = self._spec, self._trainer
        trained = Trained(
            name=spec.name,
            spec=self._digest,
            steps=trainer.step,
            seconds=self._times["seconds"],
            live_rows=trainer.live_rows,
            rows=trainer.rows,
            epochs=trainer.epoch + 1,
            skipped_steps=trainer.skipped,
            history=trainer.history,
            parameters=self._student.parameters,
            warm=spec.warm_start is not None,
            teacher=trainer.teacher,
            first_step_unix_s=self._times["first"],
            last_step_unix_s=self._times["last"],
            warnings=self._warnings,
            weights_sha256="",
        )
        if self._rank == 0:
            self.checkpoint()
            written = self._write(lambda: self._save(trained)) if self.settle() else None
            if written is None:
                self.report(TrainingState.STOPPED)
                return None
            trained = written
        self.report(TrainingState.DONE)
        return trained

    def _save(self, trained: Trained) -> Trained:
        out = self._spec.out
        out.parent.mkdir(parents=True, exist_ok=True)
        trained = replace(trained, weights_sha256=save_weights(out, self._student.module.state_dict()))
        save_trained(out, trained)
        return trained

    def _newest(self) -> dict[str, Any] | None:
        try:
            return load_checkpoint(self._folder)
        except CheckpointInvalidError as error:
            logger.warning("no checkpoint reads; training starts afresh", extra={"student": self._spec.name, "error": str(error)})
            self._warnings += (f"student {self._spec.name} was trained afresh, since no checkpoint of it reads: {error}",)
            self._says = "trains afresh: no checkpoint reads"
            return None


def _log_reader(spec: TrainingSpec, *, rank: int, world: int) -> LabelReader:
    store = open_store(spec.store_url)
    return LabelReader(
        store,
        generation=spec.generation,
        batch=spec.student.batch,
        seed=spec.seed,
        rank=rank,
        world=world,
        mixed_teachers=spec.mixed_teachers,
    )
