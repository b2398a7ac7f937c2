"""A trainer's body without Ray: from labels in a real log to weights, stopped and killed on the way."""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pipeline.config import TRAINING_RESOURCES, StudentSection
from pipeline.labels.log import LogReader
from pipeline.labels.order import Cursor
from pipeline.labels.prefetch import Found
from pipeline.labels.reader import LogEmptyError
from pipeline.labels.shard import ShardCorruptError
from pipeline.labels.store import open_store
from pipeline.labels.windows import MixedTeachersError
from pipeline.students.checkpoint import load_checkpoint, load_trained, load_weights, save_checkpoint
from pipeline.students.faults import LabelsOfCodecError, StateForeignError, StudentEditedError
from tests.kit.labelling import Bench, MemorySource
from tests.kit.students import GrowingReader, mails, reader_of, section
from tests.kit.training import Clock, Watched, training_spec
from workers import teaching
from workers.board import TrainingProgress, TrainingState
from workers.checkpointing import Checkpointing
from workers.teaching import TrainingSpec, teach


def spec_of(folder: Path, **changes: Any) -> TrainingSpec:
    spec = training_spec(folder, section(**({"checkpoint_every_steps": 5} | changes)))
    return replace(spec, out=folder / "out" / "weights.pt")


def run(spec: TrainingSpec, board: Watched | None = None, *, clock: Clock | None = None, **options: Any) -> Any:
    clock = clock or Clock()
    return teach(spec, board=board or Watched(), clock=clock, wall_clock=lambda: 1_000.0 + clock.now_s, sleep=clock.sleep, **options)


def labelled(folder: Path, rows: int = 60) -> Bench:
    (folder / "labels").mkdir()
    bench = Bench(open_store(str(folder / "labels")), MemorySource({"mail": [f"mail {number}" for number in range(rows)]}), unit_rows=8)
    bench.run()
    return bench


def same(left: Path, right: Path) -> bool:
    mine, other = load_weights(left), load_weights(right)
    return mine.keys() == other.keys() and all(mine[key].equal(other[key]) for key in mine)


def test_labels_of_a_log_become_weights_and_a_sidecar_that_says_how(tmp_path: Path) -> None:
    labelled(tmp_path)
    spec, board = spec_of(tmp_path), Watched()
    trained = run(spec, board)
    assert trained == load_trained(spec.out)
    assert (trained.steps, trained.live_rows, trained.skipped_steps, trained.warm) == (40, 60, 0, False)
    assert trained.rows == sum(8 if position % 8 != 7 else 4 for position in range(40)), "each epoch of 60 ends with a batch of 4"
    assert trained.teacher == "teacher-1"
    assert trained.history[-1][0] == 40
    assert 1_000 < trained.first_step_unix_s < trained.last_step_unix_s
    assert board.states == [TrainingState.WAITING, TrainingState.TRAINING, TrainingState.DONE]
    assert board.seen[-1].step == board.seen[-1].steps == 40


def test_a_trainer_without_labels_says_that_it_starves_and_learns_the_moment_they_come(tmp_path: Path) -> None:
    reader, board, clock = GrowingReader(reader_of(mails(60))), Watched(), Clock()

    def grow(slept: int) -> None:
        reader.known += 8 if slept > 3 else 0
        reader.closed = reader.known >= 60

    clock.on_sleep = grow
    run(spec_of(tmp_path), board, clock=clock, reader=reader)
    starving = [progress.starved for progress in board.seen]
    assert starving[:4] == [True] * 4
    assert board.states[:4] == [TrainingState.WAITING, TrainingState.TRAINING, TrainingState.WAITING, TrainingState.TRAINING]
    assert [p.live_rows for p in board.seen] == sorted(p.live_rows for p in board.seen)


def test_an_empty_log_is_waited_for(tmp_path: Path) -> None:
    reader, clock = GrowingReader(reader_of(mails(60))), Clock()
    reader.error = LogEmptyError()

    def plan(slept: int) -> None:
        if slept == 5:
            reader.error, reader.closed = None, True

    clock.on_sleep = plan
    assert run(spec_of(tmp_path), clock=clock, reader=reader).steps == 40


def test_a_bad_shard_is_named_on_the_board_and_training_goes_on_once_it_is_repaired(tmp_path: Path) -> None:
    reader, board, clock = GrowingReader(reader_of(mails(60))), Watched(), Clock()
    reader.closed, reader.error = True, ShardCorruptError("shards/0-8.arrow", "1", "2")

    def repair(slept: int) -> None:
        if slept == 4:
            reader.error = None

    clock.on_sleep = repair
    assert run(spec_of(tmp_path), board, clock=clock, reader=reader).steps == 40
    waiting = [progress for progress in board.seen if progress.corrupt]
    assert waiting
    assert waiting[0].corrupt == ("shards/0-8.arrow",)
    assert not any(progress.starved for progress in waiting), "more labels would not help"


def test_a_shard_that_rots_is_labelled_again_and_changes_nothing_that_is_learnt(tmp_path: Path) -> None:
    bench = labelled(tmp_path)
    whole = replace(spec_of(tmp_path), storage=tmp_path / "whole", out=tmp_path / "whole.pt")
    run(whole)
    board, clock, shard = Watched(), Clock(), LogReader(bench.store).refresh().commits[3].shard.key
    path = tmp_path / "labels" / shard
    path.write_bytes(bytes(reversed(path.read_bytes())))

    def repair(slept: int) -> None:
        corrupt = frozenset(key for progress in board.seen for key in progress.corrupt)
        if slept == 4:
            assert corrupt == {shard}
            bench.labelling().repair(corrupt, progress=lambda _: None, stop=threading.Event())

    clock.on_sleep = repair
    assert run(spec_of(tmp_path), board, clock=clock).steps == 40
    assert 4 <= clock.slept < 10
    assert same(spec_of(tmp_path).out, whole.out)


class Threads:
    """A reader that writes down which thread it is read by."""

    def __init__(self, reader: GrowingReader) -> None:
        self._reader = reader
        self.names: list[str] = []

    def start(self) -> Cursor:
        return self._reader.start()

    def read(self, cursor: Cursor) -> Found:
        self.names.append(threading.current_thread().name)
        return self._reader.read(cursor)


def test_batches_are_read_beside_the_thread_that_trains_and_no_thread_is_left_behind(tmp_path: Path) -> None:
    reader = GrowingReader(reader_of(mails(60)))
    reader.closed = True
    threads, before = Threads(reader), set(threading.enumerate())
    run(spec_of(tmp_path), reader=threads)
    own = sum(name == threading.current_thread().name for name in threads.names)
    assert own <= 6, "the first batch of each epoch"
    assert len(threads.names) > 40
    assert set(threading.enumerate()) == before
    reader.error = MixedTeachersError(("a", "b"))
    with pytest.raises(MixedTeachersError):
        run(replace(spec_of(tmp_path), storage=tmp_path / "again"), reader=threads)
    assert set(threading.enumerate()) == before


class Slow:
    """Writes checkpoints once it is let."""

    def __init__(self, write: Callable[..., Any]) -> None:
        self._write, self.may, self.steps = write, threading.Event(), list[int]()

    def __call__(self, folder: Path, state: Any) -> None:
        assert self.may.wait(30)
        self.steps.append(state["step"])
        self._write(folder, state)


def test_training_goes_on_while_a_checkpoint_is_written_and_what_is_written_is_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled(tmp_path)
    spec = spec_of(tmp_path)
    slow = Slow(save_checkpoint)
    monkeypatch.setattr(teaching, "save_checkpoint", slow)
    checkpoints = spec.folder / f"checkpoints-{spec.digest()}"

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 9:
            assert slow.steps == [], "four steps were taken since"
            slow.may.set()
            raise Killed

    with pytest.raises(Killed):
        run(spec, Watched(kill))
    state = load_checkpoint(checkpoints)
    assert state is not None
    assert (state["step"], state["cursor"]["pos"], state["optimiser"]["state"][0]["step"].item()) == (5, 40, 5)
    whole = replace(spec, storage=tmp_path / "whole", out=tmp_path / "whole.pt")
    run(whole)
    board = Watched()
    run(spec, board)
    assert board.seen[0].step == 5
    assert same(spec.out, whole.out)


def test_every_checkpoint_is_written_one_at_a_time_and_the_last_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path)
    steps, alone = list[int](), threading.Lock()

    def save(folder: Path, state: Any) -> Path:
        assert alone.acquire(blocking=False)
        path = save_checkpoint(folder, state)
        steps.append(state["step"])
        alone.release()
        return path

    monkeypatch.setattr(teaching, "save_checkpoint", save)
    board = Watched(lambda progress: steps[-1] == 40 if progress.state is TrainingState.DONE else None)
    assert run(spec_of(tmp_path), board).steps == 40
    assert steps == [5, 10, 15, 20, 25, 30, 35, 40]


def test_a_state_that_has_not_settled_is_not_pushed_out_by_the_next() -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    checkpoints = Checkpointing(fail)
    checkpoints.begin({"step": 1})
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        checkpoints.settle()
    with pytest.raises(RuntimeError):
        checkpoints.begin({"step": 2})
    checkpoints.close()


@pytest.mark.parametrize("stop", [0, 3, 5, 17, 38])
def test_stopped_anywhere_the_same_call_goes_on_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    labelled(tmp_path)
    whole = replace(spec_of(tmp_path), storage=tmp_path / "whole", out=tmp_path / "whole.pt")
    run(whole)
    spec, board = spec_of(tmp_path), Watched(lambda progress: progress.step < stop)
    assert run(spec, board) is None
    assert board.states[-1] is TrainingState.STOPPED
    assert load_trained(spec.out) is None
    trained = run(spec)
    assert trained.steps == 40
    assert trained.live_rows == 60
    assert same(spec.out, whole.out)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", [1, 4, 5, 6, 11, 39, 40])
def test_killed_anywhere_it_goes_on_from_its_newest_checkpoint_to_the_same_weights(tmp_path: Path, step: int) -> None:
    labelled(tmp_path)
    whole = replace(spec_of(tmp_path), storage=tmp_path / "whole", out=tmp_path / "whole.pt")
    run(whole)

    def kill(progress: TrainingProgress) -> None:
        if progress.step == step:
            raise Killed

    spec = spec_of(tmp_path)
    with pytest.raises(Killed):
        run(spec, Watched(kill))
    board = Watched()
    run(spec, board)
    assert board.seen[0].step == step // 5 * 5
    assert same(spec.out, whole.out)


def test_workers_that_found_different_checkpoints_do_not_begin(tmp_path: Path) -> None:
    labelled(tmp_path)
    assert run(spec_of(tmp_path), Watched(lambda progress: progress.step < 10)) is None
    others = [5.0]  # one that looked before the last was written

    def reduce(flat: Tensor) -> None:
        flat += others[0]

    with pytest.raises(RuntimeError, match=r"a checkpoint of step 1\d, all 2 together 1\d; expected the same one"):
        run(spec_of(tmp_path), rank=0, world=2, reduce=reduce)


def test_checkpoints_of_another_version_are_trained_over_and_that_is_said(tmp_path: Path) -> None:
    labelled(tmp_path)
    spec, board = spec_of(tmp_path), Watched()
    path = save_checkpoint(spec.checkpoints, {"step": 5})
    path.write_bytes(b"of another version")
    trained = run(spec, board)
    assert trained.steps == 40
    assert board.seen[0].says == "trains afresh: no checkpoint reads"
    assert "was trained afresh, since no checkpoint of it reads" in trained.warnings[-1]


def test_weights_without_a_sidecar_are_not_a_finished_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path)
    spec = spec_of(tmp_path)

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("workers.teaching.save_trained", kill)
    with pytest.raises(Killed):
        run(spec)
    monkeypatch.undo()
    assert spec.out.exists()
    assert load_trained(spec.out) is None
    board = Watched()
    run(spec, board)
    assert board.seen[0].step == 40, "no step is taken twice"
    assert load_trained(spec.out) is not None


def test_a_changed_student_starts_afresh_and_a_change_of_resources_does_not(tmp_path: Path) -> None:
    labelled(tmp_path)
    run(spec_of(tmp_path), Watched(lambda progress: progress.step < 17))
    board = Watched(lambda _: False)
    run(spec_of(tmp_path, cpus=2.0, checkpoint_every_steps=7), board)
    assert board.seen[0].step > 0
    board = Watched(lambda _: False)
    run(spec_of(tmp_path, temperature=3.0), board)
    assert board.seen[0].step == 0


def test_a_students_resources_are_keys_of_it_and_no_other_key_is_left_out_of_what_it_becomes(tmp_path: Path) -> None:
    assert set(StudentSection.model_fields) >= TRAINING_RESOURCES
    before = spec_of(tmp_path)
    other = {int: lambda value: value + 1, float: lambda value: value + 0.25, str: lambda _: "other", dict: lambda _: {"x": 1.0}}
    for key, value in before.student:
        new = {"x": {"y": 1.0}} if key.endswith("_options") else other[type(value)](value)
        changed = replace(before, student=before.student.model_copy(update={key: new}))
        assert (changed.digest() == before.digest()) is (key in TRAINING_RESOURCES), key


def test_an_edited_module_is_another_student_and_no_worker_takes_it_for_what_the_run_began_with(tmp_path: Path) -> None:
    code = tmp_path / "not_loaded.py"
    code.write_text("# as it was")
    spec = spec_of(tmp_path, use="not_loaded:make", options={})
    code.write_text("# as it is now")
    assert spec_of(tmp_path, use="not_loaded:make", options={}).digest() != spec.digest()
    with pytest.raises(
        StudentEditedError, match=r"student small: the code of not_loaded:make is another than when the run began; .* afresh"
    ):
        run(spec)


def test_a_warm_start_begins_with_the_incumbents_weights(tmp_path: Path) -> None:
    labelled(tmp_path)
    first = spec_of(tmp_path)
    run(first)
    warm = replace(spec_of(tmp_path, steps=1, learning_rate=1e-9, weight_decay=0.0), warm_start=first.out, out=tmp_path / "warm.pt")
    assert warm.digest() != replace(warm, warm_start=None).digest()
    assert run(warm).warm
    before, after = load_weights(first.out), load_weights(warm.out)
    assert all(after[key].allclose(before[key], atol=1e-6) for key in before)
    wider = replace(warm, student=section(options={"max_bytes": 32, "width": 9, "embedding": 4}), out=tmp_path / "wider.pt")
    with pytest.raises(StateForeignError):
        run(wider)


def test_a_student_learns_from_two_teachers_only_where_the_run_file_says_so(tmp_path: Path) -> None:
    bench = labelled(tmp_path)
    bench.teacher.fingerprint = "teacher-2"
    bench.source.texts["more"] = [f"more {number}" for number in range(20)]
    bench.section = bench.section.model_copy(update={"mixed_teachers": True})
    bench.run(2)
    spec = replace(spec_of(tmp_path), generation=2)
    with pytest.raises(MixedTeachersError, match=r"labelling\.mixed_teachers"):
        run(spec)
    assert run(replace(spec, mixed_teachers=True))
    assert spec.digest() == replace(spec, mixed_teachers=True).digest(), "a student that is trained stays"


def test_older_labels_of_a_codec_that_the_loss_can_not_learn_from_are_refused_when_they_are_replayed(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    bench = Bench(open_store(str(tmp_path / "labels")), MemorySource({"mail": ["one", "two", "three"]}), codec="top_k", codec_k=1)
    bench.run()
    bench.source.texts["more"] = ["four", "five"]
    bench.section = bench.section.model_copy(update={"codec": "sampled"})
    bench.run(2)
    spec = replace(spec_of(tmp_path, loss={"rs_kd": 1.0}, temperature=1.0), generation=2)
    live = replace(spec, student=spec.student.model_copy(update={"steps": 1, "warmup_steps": 0}))
    assert run(live).live_rows == 2, "the live pass is of today's codec"
    with pytest.raises(LabelsOfCodecError, match=r"student small: rs_kd on labels of codec top_k, .*: take another students.small.loss"):
        run(spec)
    assert run(replace(spec, student=spec.student.model_copy(update={"loss": {"ghost": 1.0}}))).rows > 5


class FullDisk:
    """Writes fail for want of room, from the first to the last of them that it is told to refuse."""

    def __init__(self, write: Callable[..., Any], refusals: int) -> None:
        self._write, self._left = write, refusals

    def __call__(self, *arguments: Any) -> Any:
        if self._left:
            self._left -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(*arguments)


@pytest.mark.parametrize("written", ["save_checkpoint", "save_weights", "save_trained"])
def test_a_full_disk_is_waited_out_said_and_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    labelled(tmp_path)
    whole = replace(spec_of(tmp_path), storage=tmp_path / "whole", out=tmp_path / "whole.pt")
    run(whole)
    monkeypatch.setattr(teaching, written, FullDisk(getattr(teaching, written), 3))
    board = Watched()
    assert run(spec_of(tmp_path), board).steps == 40
    assert sum("disk of the checkpoints is full" in progress.says for progress in board.seen) == 3
    assert same(spec_of(tmp_path).out, whole.out)


def test_a_trainer_that_waits_for_room_stops_when_told_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(teaching, "save_trained", FullDisk(print, 1000))
        board = Watched(lambda progress: "full" not in progress.says)
        assert run(spec_of(tmp_path), board) is None
    assert board.states[-1] is TrainingState.STOPPED
    assert load_trained(spec_of(tmp_path).out) is None
    assert run(spec_of(tmp_path)).steps == 40


def test_a_stop_while_the_disk_is_full_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path)

    def refuse(folder: Path, state: Any) -> Path:
        if state["step"] > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save_checkpoint(folder, state)

    with monkeypatch.context() as full:
        full.setattr(teaching, "save_checkpoint", refuse)
        board = Watched(lambda progress: "full" not in progress.says)
        assert run(spec_of(tmp_path), board) is None
    assert board.states[-1] is TrainingState.STOPPED
    again = Watched()
    assert run(spec_of(tmp_path), again).steps == 40
    assert again.seen[0].step == 5


def test_a_disk_that_fails_otherwise_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    labelled(tmp_path)
    monkeypatch.setattr(teaching, "save_checkpoint", fails)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        run(spec_of(tmp_path))
