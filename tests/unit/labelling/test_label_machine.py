"""Labelling as a state machine: whatever is done to it, in whatever order, a label is a fact.

Hypothesis draws parts of a source, runs of some turns, and what happens to them: a crash before or after any write, an answer that is
lost, a put that was none, a second driver that takes over while the first sleeps, shards that rot, retention, the ends of generations.
The tail of the log is filed every few facts. After each of these the invariants are looked at from outside, by what is in the store alone.
"""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from pipeline.config import UNITS_PER_TEACHER
from pipeline.labels import log, manifest
from pipeline.labels.log import FencedError, LogReader
from pipeline.labels.order import Cursor
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.retention import Retention
from pipeline.labels.shard import ShardCorruptError
from pipeline.labels.state import LogState
from pipeline.labels.verify import verify
from tests.kit.labelling import Bench, MemorySource, expected_log_probs
from tests.kit.stores import Crash, MemoryStore
from workers.labelling import Demand, LabellingOutcome
from workers.labelling.collecting import collect

UNIT_ROWS, WINDOW_ROWS, WORKERS = 2, 4, 1
BATCH, OTHER_BATCH = 3, 16
IN_FLIGHT = WORKERS * UNITS_PER_TEACHER * UNIT_ROWS
LEAD_MAX = 2 * WINDOW_ROWS + IN_FLIGHT
QUEUED = 2 * UNIT_ROWS
"""Done and waiting for their group: not in the log yet, so not in the lead that decides."""
FILE_FACTS = 12
READS_EVERY_TURNS = 5
"""The student is slower than the teachers."""
EXAMPLES, MANY_EXAMPLES, STEPS = 12, 100, 20
TURNS_MAX = 2_000
"""Far more than any run here takes: one that is not over by then never is."""
LONG_S = 1e6
"""Longer than anything is kept for those who are late."""
BAD = ("poison", "nan", "unparseable", "kill")

turns_of_a_run, nth_write, bytes_kept = st.integers(1, 40), st.integers(0, 20), st.integers(10_000, 80_000)


class Student:
    """Reads the live pass of a generation while it is labelled."""

    def __init__(self, store: MemoryStore, generation: int) -> None:
        self._reader = LabelReader(store, generation=generation, batch=BATCH, seed=5)
        self._cursor: Cursor | None = None
        self.ids: list[str] = []

    def read(self) -> frozenset[str]:
        """The next batch, if it is there; the shard that could not be read."""
        try:
            self._cursor = self._cursor or self._reader.start()
            got = self._reader.read(self._cursor)
        except ShardCorruptError as error:
            return frozenset({error.shard})
        if isinstance(got, LabelBatch):
            self.ids += got.sample_ids
            self._cursor = got.cursor_after
        return frozenset()


class AnyLabelling(RuleBasedStateMachine):
    """One store; the processes that work on it come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.source = MemoryStore(), MemorySource({})
        self.bench = Bench(
            self.store,
            self.source,
            unit_rows=UNIT_ROWS,
            workers_max=WORKERS,
            window_rows=WINDOW_ROWS,
            lead_max=LEAD_MAX,
        )
        self.generation, self.student = 1, Student(self.store, 1)
        self.collections = 0
        self.rotten: set[str] = set()
        """Objects whose bytes are not those that were committed."""
        self.commits: list[str] = []
        """As the log had them at the last look."""
        self.read: dict[tuple[int, int], list[str]] = {}
        """(generation, epoch) -> ids, in the order in which anybody ever read them."""

    # What is done to it.

    @initialize(good=st.integers(6, 20))
    def the_first_part(self, good: int) -> None:
        self.a_part_comes(good, None, False)

    @precondition(lambda self: len(self.state().plans) == len(self.source.texts))
    @rule(good=st.integers(6, 20), bad=st.sampled_from([None, *BAD]), known=st.booleans())
    def a_part_comes(self, good: int, bad: str | None, known: bool) -> None:
        name = f"part-{len(self.source.texts)}"
        texts = [f"text {row} {'' if known and row % 2 else name}" for row in range(good)]
        self.source.texts[name] = [*texts[:3], *([f"{bad} {name}"] if bad else []), *texts[3:]]

    @rule(turns=turns_of_a_run)
    def a_run_is_stopped(self, turns: int) -> None:
        self.there_is_work()
        self.run(turns)

    @rule()
    def a_run_is_left_alone(self) -> None:
        self.there_is_work()
        assert self.run(TURNS_MAX).ended

    @rule(turns=turns_of_a_run, write=nth_write, after=st.booleans())
    def a_run_crashes_at_a_write(self, turns: int, write: int, after: bool) -> None:
        self.there_is_work()
        self.store.crash_at(write, after=after)
        self.survive(lambda: self.run(turns))

    @rule(turns=turns_of_a_run, skip=st.integers(0, 6))
    def the_answer_to_a_log_write_is_lost(self, turns: int, skip: int) -> None:
        self.there_is_work()
        self.store.lose_response("put_if_absent log/0", skip=skip)
        self.survive(lambda: self.run(turns))

    @rule(turns=turns_of_a_run, skip=st.integers(0, 4))
    def the_store_says_that_it_has_a_shard_and_has_not(self, turns: int, skip: int) -> None:
        self.there_is_work()
        self.store.forget("put shards/", skip=skip)
        self.survive(lambda: self.run(turns))

    @rule(turns=turns_of_a_run, sleeps_at=st.integers(1, 6), rivals_turns=turns_of_a_run)
    def a_rival_takes_over_and_the_sleeper_wakes(self, turns: int, sleeps_at: int, rivals_turns: int) -> None:
        self.there_is_work()
        taken_over: list[LogState] = []

        def rival(turn: int) -> None:
            before = self.state()
            if turn == sleeps_at:
                self.run(rivals_turns, beside=True)
            if self.state().term > before.term:  # where nothing was left to do it wrote nothing
                taken_over.extend([before, self.state()])

        try:
            outcome = self.run(sleeps_at + turns, at_turn=rival)
        except FencedError:
            assert taken_over, "only another writer fences"
        else:
            assert not taken_over or outcome.rows_committed == taken_over[0].rows_labelled, "nobody counts what was never written"
        if taken_over:
            assert self.state().next_seq == taken_over[1].next_seq, "who is fenced writes nothing more"

    @precondition(lambda self: self.kept())
    @rule(data=st.data(), damage=st.sampled_from(["flip", "truncate", "delete"]))
    def shards_rot(self, data: st.DataObject, damage: str) -> None:
        for key in data.draw(st.lists(st.sampled_from(self.kept()), min_size=1, max_size=3, unique=True)):
            content = self.store.objects.pop(key, b"")
            if content and damage != "delete":
                self.store.objects[key] = content[:-1]
            if content and damage == "flip":
                self.store.objects[key] = content
                self.store.flip_bit(key, at=data.draw(st.integers(0, len(content) - 1)))
            self.rotten.add(key)

    @rule()
    def what_rotted_is_repaired(self) -> None:
        bad = frozenset(found.shard for found in verify(self.store).bad)
        outcome = self.bench.labelling(self.generation).repair(bad, progress=lambda _: None, stop=threading.Event())
        assert set(outcome.repaired) == bad
        assert not verify(self.store).bad

    @rule(keep_bytes=bytes_kept)
    def garbage_and_old_labels_go(self, keep_bytes: int) -> None:
        self.collections += 1
        self.bench.seconds += LONG_S
        if self.state().log:
            policy, nonce = Retention(keep_bytes=keep_bytes), f"collection {self.collections}"
            collect(self.store, policy, holder="the collection", nonce=nonce, now_unix_s=self.bench.now().unix_s)

    @rule(keep_bytes=bytes_kept, write=nth_write, after=st.booleans())
    def a_collection_crashes_at_a_write(self, keep_bytes: int, write: int, after: bool) -> None:
        self.store.crash_at(write, after=after)
        self.survive(lambda: self.garbage_and_old_labels_go(keep_bytes))

    # What always holds.

    @invariant()
    def no_row_is_done_twice_and_the_log_only_grows(self) -> None:
        found, state = verify(self.store), self.state()
        assert found.problems == ()
        now = {commit.shard.key: state.shard_of(commit).key for commit in state.commits}
        assert {now[bad.shard] for bad in found.bad} <= self.rotten, "what was committed is there, and whole"
        assert list(now)[: len(self.commits)] == self.commits
        self.commits = list(now)

    @invariant()
    def windows_have_no_gaps(self) -> None:
        stops = [0, *(seal.stop_commit for seal in self.state().windows)]
        assert [seal.first_commit for seal in self.state().windows] == stops[:-1]

    @invariant()
    def at_its_end_a_generation_has_every_planned_row_labelled_or_quarantined(self) -> None:
        state = self.state()
        if self.generation in state.ends:
            assert state.rows_labelled + state.rows_quarantined == state.rows_planned
            assert state.sealed_commits == len(state.commits)

    @invariant()
    def what_the_newest_students_hold_is_not_let_go(self) -> None:
        state = self.state()
        assert state.dropped_windows <= (state.first_window(max(state.ends)) if state.ends else 0)
        assert {state.shard_of(commit).key for commit in state.kept_commits()} <= {*self.store.objects, *self.rotten}

    @invariant()
    def the_order_is_a_function_of_the_log(self) -> None:
        state, newest = self.state(), self.generation
        for generation, epoch in ((newest - 1, 0), (newest, 0), (newest, 1)):
            first_window = state.replay_floor(generation) if epoch else state.first_window(generation)
            if state.log and generation and first_window >= state.dropped_windows:
                self.compare(generation, epoch, self.ids_of(generation, epoch))
        self.compare(self.generation, 0, self.student.ids)

    # How.

    def there_is_work(self) -> None:
        """A run that finds nothing to do is soon over, and nothing happens to it."""
        state = self.state()
        if not state.rows_left and len(state.plans) == len(self.source.texts):
            number = len(self.source.texts)
            self.a_part_comes(30 + number % 3, (None, *BAD)[number % 5], bool(number % 2))

    def state(self) -> LogState:
        return LogReader(self.store).refresh()

    def kept(self) -> list[str]:
        state = self.state()
        return [state.shard_of(commit).key for commit in state.kept_commits()]

    def run(self, turns: int, *, at_turn: Callable[[int], None] = lambda _: None, beside: bool = False) -> LabellingOutcome:
        """A process that plans and labels the generation that is due; a rival works `beside` one that does that already."""
        if not beside and self.generation in self.state().ends:
            self.generation += 1
            self.student = Student(self.store, self.generation)
        stop, turn, follower = threading.Event(), 0, LogReader(self.store)
        bad = frozenset(found.shard for found in verify(self.store).bad)  # as students that replay would report them

        def demand() -> Demand:
            nonlocal turn
            turn += 1
            at_turn(turn)
            if turn >= turns:
                stop.set()
            corrupt = self.student.read() if turn % READS_EVERY_TURNS == 0 else frozenset[str]()
            state = follower.refresh()
            lead = state.rows_labelled - state.rows_at_end - len(self.student.ids)
            assert lead <= LEAD_MAX + IN_FLIGHT + QUEUED, f"labels run {lead} rows ahead"
            return Demand(cursors={"student": len(self.student.ids)}, corrupt=bad | corrupt)

        return self.bench.run(self.generation, demand=demand, stop=stop)

    def survive(self, process: Callable[[], object]) -> None:
        """The process may die of what was done to the store; the next finds the store as it then is."""
        try:
            process()
        except (Crash, ConnectionError):
            pass
        finally:
            self.store.revive()

    def ids_of(self, generation: int, epoch: int) -> list[str]:
        """What a reader that starts now sees, as far as the log goes or up to a shard that rotted; every label is the teacher's."""
        reader, ids = LabelReader(self.store, generation=generation, batch=OTHER_BATCH, seed=5), list[str]()
        cursor = Cursor(log=self.state().log, seed=5, batch=OTHER_BATCH, generation=generation, epoch=epoch, pos=0)
        while True:
            try:
                got = reader.read(cursor)
            except ShardCorruptError:
                return ids
            if not isinstance(got, LabelBatch):
                assert len(set(ids)) == len(ids), "a sample is there twice"
                return ids
            places = [(part, int(row)) for part, _, row in (sample.rpartition(":") for sample in got.sample_ids)]
            texts = [self.source.texts[part][row] for part, row in places]
            assert got.inputs.to_pylist() == texts
            np.testing.assert_allclose(got.log_probs_BK, np.stack([expected_log_probs(text) for text in texts]), atol=2e-3)
            ids += got.sample_ids
            cursor = got.cursor_after

    def compare(self, generation: int, epoch: int, ids: list[str]) -> None:
        """One is the beginning of the other."""
        known = self.read.setdefault((generation, epoch), [])
        both = min(len(ids), len(known))
        assert ids[:both] == known[:both], f"generation {generation}, epoch {epoch} was read in another order before"
        known += ids[both:]


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(MANY_EXAMPLES, marks=pytest.mark.slow)])
def test_whatever_happens_labels_stay_exactly_once_whole_and_in_order(monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    for module in (manifest, log):
        monkeypatch.setattr(module, "FILE_FACTS", FILE_FACTS)
    run_state_machine_as_test(AnyLabelling, settings=settings(max_examples=examples, stateful_step_count=STEPS))
