"""Training a student on the cluster: Ray Train keeps the workers alive, `workers.teaching` is what they do.

`train_student` blocks until its student is trained; the driver runs one per thread. Killed at any moment, the same call goes on from
the newest checkpoint; where the final weights are there and fit, it returns at once. Workers ask for a fraction of a CPU: with
whole ones, two trainers on a small machine run one after the other in silence. An elastic student's workers are as many as there is room
for, and the order of samples does not know how many. Left to others: labels and their repair (`workers.labelling`), export and gate
(`workers.driver`).
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import KdpipeError, StudentError
from pipeline.students.checkpoint import Trained, load_trained, newest_step
from pipeline.students.faults import NotFiniteElsewhereError
from pipeline.students.scaling import TRAINER, Scale, scale_of
from workers.board import Board, TrainingProgress, TrainingState
from workers.sharing import check_folder, check_log, log_seen, proof_in
from workers.teaching import TrainingSpec, teach

__all__ = ["TrainingFailedError", "TrainingOutcome", "TrainingSpec", "train_student"]

logger = logging.getLogger(__name__)

UNSCHEDULED_S = 30.0
RESIZE_EVERY_S = 60.0
"""Between looks at whether an elastic student should have more workers, or fewer."""
WORKER_RESTARTS = 3
"""Without a newer checkpoint. Ray counts them over the whole training, however many steps lie between; `_fit` begins the count anew."""
REPAIRED_WITHIN = timedelta(days=7)
"""A rank waits as long for another; torch's own half hour is too short for teachers that have to be started again."""


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """`trained` is None where the board was told to stop first; the same call later goes on."""

    name: str
    state: TrainingState
    trained: Trained | None
    weights: Path


class TrainingFailedError(StudentError):
    """A student's workers ended without its weights, and what ended them is none of our errors."""

    def __init__(self, name: str, reason: str, folder: str) -> None:
        super().__init__(name, reason, folder)
        self.name, self.reason, self.folder = name, reason, folder

    def __str__(self) -> str:
        return (
            f"student {self.name}: {self.reason}; expected it to train to its last step; run again: it trains anew, on the labels that "
            f"are there; where that ends the same way, correct the student; its checkpoints stay in {self.folder} for a look"
        )


def train_student(spec: TrainingSpec, *, board: Board) -> TrainingOutcome:
    """Train to the end on the connected Ray cluster, or go on where an earlier call was killed. Blocks.

    Raises what training raises (NotFiniteError, MixedTeachersError, FolderNotSharedError ...), or TrainingFailedError.
    """
    spec = replace(spec, base=spec.base.resolve(), storage=spec.storage.resolve(), out=spec.out.resolve())
    done = _finished(spec)
    if done is not None:
        board.report(
            spec.name,
            TrainingProgress(state=TrainingState.DONE, step=done.steps, steps=done.steps, rows=done.rows, live_rows=done.live_rows),
        )
        return TrainingOutcome(name=spec.name, state=TrainingState.DONE, trained=done, weights=spec.out)
    board.report(spec.name, TrainingProgress(state=TrainingState.STARTING, steps=spec.student.steps))
    over = threading.Event()
    watcher = threading.Thread(target=_say_if_unscheduled, args=(spec, board, over), daemon=True, name=f"watch {spec.name}")
    watcher.start()
    try:
        with proof_in(spec.folder) as proof:
            _fit(replace(spec, log=log_seen(spec.store_url), proof=proof), board)
    finally:
        over.set()
    error = board.error(spec.name)
    if error is not None:
        raise error
    done = _finished(spec)
    if done is None and not board.stopping():
        raise TrainingFailedError(spec.name, "its worker ended without a result, and nobody asked it to stop", str(spec.folder))
    return TrainingOutcome(name=spec.name, state=TrainingState.DONE if done else TrainingState.STOPPED, trained=done, weights=spec.out)


def _fit(spec: TrainingSpec, board: Board) -> None:
    """Until its workers have ended of themselves, or have died again and again without getting on. Raises TrainingFailedError."""
    from ray.train.v2.api.exceptions import TrainingFailedError as RayTrainingFailedError

    while True:
        begun_at = newest_step(spec.checkpoints)
        try:
            _trainer(spec, board).fit()
            return
        except RayTrainingFailedError as error:
            if board.error(spec.name) is not None or board.stopping():
                return  # what ended it has a better name
            if newest_step(spec.checkpoints) > begun_at:
                logger.warning("a student's workers died too often for Ray, and got on: they start again", extra={"student": spec.name})
                continue
            reasons = list(getattr(error, "worker_failures", {}).values()) or [error]
            board.report(spec.name, TrainingProgress(state=TrainingState.FAILED, steps=spec.student.steps, says=str(reasons[0])[:200]))
            last = f"{type(reasons[0]).__name__}: {reasons[0]}"[:500]
            often = f"its trainer failed {WORKER_RESTARTS + 1} times and its newest checkpoint is no newer, last: {last}"
            raise TrainingFailedError(spec.name, often, str(spec.folder)) from error


def _trainer(spec: TrainingSpec, board: Board) -> Any:
    """A Ray Train trainer of the student, not yet started."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from workers.restarts import TellsOfRestarts
    from workers.torch_group import TorchGroup

    # One process a trainer that watches for spot nodes being taken away; our checkpoints need no warning.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    scale = _scale(spec, ray.cluster_resources())
    if scale.says:
        logger.warning("a student's workers cannot follow the cluster", extra={"student": spec.name, "says": scale.says})
        board.report(spec.name, TrainingProgress(state=TrainingState.STARTING, steps=spec.student.steps, says=scale.says))
    return TorchTrainer(
        _worker,
        train_loop_config={"spec": spec, "board": board},
        torch_config=TorchGroup(),
        scaling_config=ScalingConfig(
            num_workers=(scale.least, scale.most) if scale.elastic else scale.least,
            use_gpu=spec.student.gpus > 0,
            resources_per_worker=dict(scale.resources),
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
        ),
        run_config=RunConfig(
            name=spec.folder.name,
            storage_path=str(spec.storage),
            failure_config=FailureConfig(max_failures=WORKER_RESTARTS),
            callbacks=[TellsOfRestarts(spec.name, board)],
        ),
    )


def _scale(spec: TrainingSpec, cluster: Mapping[str, float]) -> Scale:
    return scale_of(spec.student, offered=cluster.get(TRAINER, 0.0), rivals=spec.rivals)


def _worker(config: dict[str, Any]) -> None:
    """A Ray Train worker."""
    from ray.train import get_context

    context = get_context()
    work(config["spec"], config["board"], rank=context.get_world_rank(), world=context.get_world_size())


def work(spec: TrainingSpec, board: Board, *, rank: int, world: int) -> None:
    """One worker's part. Errors of ours are the same the next time, so they go to the board instead of being tried again."""
    torch.set_num_threads(max(1, int(spec.student.cpus)))
    error = board.error(spec.name)  # of an earlier start
    if error is None:
        error = _taught(spec, board, rank=rank, world=world)
        if error is not None:
            board.fail(spec.name, error)
            if world > 1:
                raise error  # the other ranks wait in a collective; Ray ends them, and starts all again to find the error there
    if error is not None:
        board.report(spec.name, TrainingProgress(state=TrainingState.FAILED, steps=spec.student.steps, says=str(error)[:200]))


def _taught(spec: TrainingSpec, board: Board, *, rank: int, world: int) -> KdpipeError | None:
    """What ended the training before its time, if it is an error of ours."""
    try:
        check_log(spec.store_url, spec.log)
        check_folder(spec.folder, spec.proof)
        teach(
            spec,
            board=board if rank == 0 else Follower(board, rank=rank),
            rank=rank,
            world=world,
            reduce=_adding_up() if world > 1 else None,
            clock=time.monotonic,
            wall_clock=time.time,
            sleep=time.sleep,
        )
    except NotFiniteElsewhereError:
        return None  # the rank that knows the samples tells the board of them, and raises
    except KdpipeError as error:
        return error
    return None


class Follower:
    """What a rank above 0 tells the board: which shards it waits for. Rank 0, in a collective meanwhile, knows nothing of them."""

    def __init__(self, board: Board, *, rank: int) -> None:
        self._board, self._rank = board, rank

    def report(self, student: str, progress: TrainingProgress) -> bool:
        return self._board.found_bad(student, self._rank, progress.corrupt)


def _adding_up() -> Callable[[Tensor], None]:
    """A sum over all ranks, in a group of its own: they wait in it for one whose shard is repaired or whose disk is full.

    A rank that dies closes its connections, which ends the others at once; where a machine goes without a word, Ray ends them.
    """
    group = torch.distributed.new_group(timeout=REPAIRED_WITHIN)
    return lambda flat: torch.distributed.all_reduce(flat, group=group)


def _finished(spec: TrainingSpec) -> Trained | None:
    trained = load_trained(spec.out)
    return trained if trained is not None and trained.spec == spec.digest() else None


def _say_if_unscheduled(spec: TrainingSpec, board: Board, over: threading.Event) -> None:
    """After a while without a worker, at the start or after one was lost, put on the board what was asked for and what the cluster has."""
    import ray

    waited = True
    while not over.wait(UNSCHEDULED_S):
        progress = board.snapshot().get(spec.name)
        waits = progress is not None and progress.state is TrainingState.STARTING
        if progress is not None and waits and waited:
            there = ray.cluster_resources()
            says = unscheduled(_scale(spec, there), there=there, free=ray.available_resources())
            logger.warning("a trainer waits to be scheduled", extra={"student": spec.name, "says": says})
            board.report(spec.name, replace(progress, says=says))
        waited = waits


def unscheduled(scale: Scale, *, there: Mapping[str, float], free: Mapping[str, float]) -> str:
    """Why a trainer has not started: the cluster has no room for the least that it asked for; else it is slow, and nobody needs to act."""
    if all(free.get(name, 0.0) >= scale.least * amount for name, amount in scale.resources.items()):
        return f"starting for {UNSCHEDULED_S:.0f} s and more"
    workers = f"{scale.least} to {scale.most}" if scale.elastic else f"{scale.least}"
    asked = ", ".join(f"{name} {amount:g}" for name, amount in scale.resources.items())
    has = ", ".join(f"{name} {there.get(name, 0):g} ({free.get(name, 0):g} free)" for name in scale.resources)
    return f"not started in {UNSCHEDULED_S:.0f} s: asked for {workers} x {asked}; the cluster has {has}"
