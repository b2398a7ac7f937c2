"""One teacher at work: what it reads, asks, sets aside and writes."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import SourceSection, TeacherSection
from pipeline.labels.log import LogWriter
from pipeline.labels.rowspace import planned
from pipeline.labels.shard import read_shard
from pipeline.labels.store import LocalStore, StoreFullError
from pipeline.sources import SourceSpec
from pipeline.teachers.teacher import Answer, TeacherUnavailableError
from tests.kit.labelling import MemorySource, MemoryTeacher, expected_log_probs
from tests.kit.stores import MemoryStore
from workers.labelling.labeller import Labeller
from workers.labelling.messages import Assignment, Failed, Labelled, LabellerSpec, Trouble
from workers.sharing import StoreNotSharedError


def labeller_of(source: MemorySource, *, store: MemoryStore | None = None, teacher: Any = None) -> Labeller:
    return Labeller(store=store or MemoryStore(), source=source, teacher=teacher or MemoryTeacher(), batch_rows=4, kind="text")


def assignment_of(source: MemorySource, start: int, stop: int, **options: Any) -> Assignment:
    ((name, texts),) = source.texts.items()
    (plan,) = planned([(name, name, len(texts))], known=[], unit_rows=5)
    return Assignment(lease=3, key="shards/x", plan=plan, start=start, stop=stop, **options)


def test_a_unit_is_read_by_its_stride_and_written_in_row_order():
    store, source = MemoryStore(), MemorySource({"a": [f"text {row}" for row in range(20)]})
    done = labeller_of(source, store=store).label(assignment_of(source, 5, 10))
    assert isinstance(done, Labelled)
    assert done.shard
    shard = read_shard(store, done.shard)
    assert source.reads == [("a", [1, 5, 9, 13, 17])]
    assert shard.table["row"].to_pylist() == [5, 6, 7, 8, 9]
    assert shard.table["sample_id"].to_pylist() == ["a:1", "a:5", "a:9", "a:13", "a:17"]
    np.testing.assert_allclose(shard.log_probs()[2], expected_log_probs("text 9"), atol=2e-3)
    assert (done.teacher_rows, done.bad, done.refused) == (5, (), False)


@pytest.mark.parametrize("bad", [{0}, {9}, {3, 4}, {0, 1, 2, 3}, set(range(9))])
def test_rows_at_which_the_teacher_raises_are_found_and_only_those(bad):
    source = MemorySource({"a": [f"poison {row}" if row in bad else f"text {row}" for row in range(10)]})
    done = labeller_of(source).label(assignment_of(source, 0, 10))
    assert isinstance(done, Labelled)
    assert done.shard
    assert done.shard.rows == 10 - len(bad)
    assert len(done.bad) == len(bad)
    assert not done.refused


def test_a_teacher_that_fails_on_every_row_is_said_to_refuse_and_nothing_is_written():
    store, source = MemoryStore(), MemorySource({"a": [*(f"poison {number}" for number in range(4)), "unparseable"]})
    done = labeller_of(source, store=store).label(assignment_of(source, 0, 5))
    assert isinstance(done, Labelled)
    assert (done.shard, done.refused, len(done.bad), done.teacher_rows) == (None, True, 5, 4)
    assert store.objects == {}


def test_rows_without_input_are_no_refusal():
    source = MemorySource({"a": ["unparseable"] * 5})
    done = labeller_of(source).label(assignment_of(source, 0, 5))
    assert isinstance(done, Labelled)
    assert (done.shard, done.refused, done.teacher_rows) == (None, False, 0)


def test_a_repair_keeps_every_row_in_its_place_and_nothing_of_those_it_gives_up():
    store, source = MemoryStore(), MemorySource({"a": ["text", "poison", "unparseable", "nan", "gone before"]})
    done = labeller_of(source, store=store).label(assignment_of(source, 0, 5, keep_every_row=True, without=(4,)))
    assert isinstance(done, Labelled)
    assert done.shard
    shard = read_shard(store, done.shard)
    assert shard.table["row"].to_pylist() == [0, 1, 2, 3]
    assert shard.table["input"].to_pylist() == ["text", "", "", ""]
    assert [bad.row for bad in done.bad] == [1, 2, 3]
    assert np.isfinite(shard.log_probs()).all()


@pytest.mark.parametrize(
    ("break_it", "trouble"),
    [
        (lambda store, source: setattr(source, "read_error", OSError("stale")), Trouble.READ),
        (lambda store, source: source.texts.clear(), Trouble.GONE),
        (lambda store, source: store.fail("put_if_absent shards/", OSError("EIO")), Trouble.WRITE),
        (lambda store, source: store.fail("put_if_absent shards/", StoreFullError("x")), Trouble.FULL),
    ],
)
def test_what_is_no_rows_fault_is_a_value_that_says_what_it_is(break_it, trouble):
    store, source = MemoryStore(), MemorySource({"a": ["text"] * 5})
    assignment = assignment_of(source, 0, 5)
    break_it(store, source)
    done = labeller_of(source, store=store).label(assignment)
    assert isinstance(done, Failed)
    assert (done.lease, done.trouble) == (3, trouble)


def test_a_shard_of_other_bytes_is_never_replaced_and_its_own_may_be_put_again():
    store, source = MemoryStore(), MemorySource({"a": ["text"] * 5})
    first, again = (labeller_of(source, store=store).label(assignment_of(source, 0, 5)) for _ in range(2))
    assert isinstance(first, Labelled)
    assert isinstance(again, Labelled)
    assert first.shard == again.shard
    store.objects["shards/x"] = b"somebody else's"
    refused = labeller_of(source, store=store).label(assignment_of(source, 0, 5))
    assert isinstance(refused, Failed)
    assert refused.trouble is Trouble.WRITE
    assert "shards/x is there already, with other bytes" in refused.reason
    assert store.objects["shards/x"] == b"somebody else's"


def test_the_next_unit_is_read_while_the_teacher_is_busy_with_this_one():
    source = MemorySource({"a": ["text"] * 10})
    asked, answer, read_ahead = threading.Event(), threading.Event(), threading.Event()

    class SlowTeacher(MemoryTeacher):
        def log_probs(self, inputs: pa.Array):
            asked.set()
            assert answer.wait(10)
            return super().log_probs(inputs)

    class WatchedSource(MemorySource):
        def read(self, identity, rows):
            if asked.is_set():
                read_ahead.set()
            return super().read(identity, rows)

    watched = WatchedSource(source.texts)
    labeller = labeller_of(watched, teacher=SlowTeacher())
    first = threading.Thread(target=labeller.label, args=(assignment_of(watched, 0, 5),))
    first.start()
    assert asked.wait(10)
    second = threading.Thread(target=labeller.label, args=(assignment_of(watched, 5, 10),))
    second.start()
    assert read_ahead.wait(10), "the second unit was not read before the first was answered"
    answer.set()
    first.join()
    second.join()


def test_what_members_disagree_about_is_in_the_shard_in_the_place_of_its_row():
    class Torn(MemoryTeacher):
        def answer(self, inputs):
            apart = np.array([len(text) / 100 for text in inputs.to_pylist()], dtype=np.float32)
            return Answer(log_probs_BK=self.log_probs(inputs), disagreement_B=apart)

    store, texts = MemoryStore(), ["a", "ccc", "poison", "nan", "dd"]
    source = MemorySource({"p": texts})
    done = labeller_of(source, store=store, teacher=Torn()).label(assignment_of(source, 0, 5))
    assert isinstance(done, Labelled)
    assert done.shard
    shard = read_shard(store, done.shard)
    expected = [len(text) / 100 for text in texts if text not in ("poison", "nan")]
    np.testing.assert_allclose(shard.table["disagreement"].to_numpy(), expected, rtol=1e-6)


def test_a_teacher_is_asked_in_the_batches_that_it_likes():
    class ByLength(MemoryTeacher):
        def __init__(self) -> None:
            super().__init__()
            self.together: list[list[str]] = []

        def batches(self, inputs, rows):
            order = np.argsort([-len(text) for text in inputs.to_pylist()], kind="stable")
            return [order[start : start + 2] for start in range(0, len(order), 2)]

        def log_probs(self, inputs):
            self.together.append(inputs.to_pylist())
            return super().log_probs(inputs)

    store, texts = MemoryStore(), ["a", "ccc", "unparseable", "bbbbb", "dddd"]
    teacher, source = ByLength(), MemorySource({"p": texts})
    done = labeller_of(source, store=store, teacher=teacher).label(assignment_of(source, 0, 5))
    assert isinstance(done, Labelled)
    assert done.shard
    assert sorted(map(tuple, teacher.together)) == [("bbbbb", "dddd"), ("ccc", "a")]
    shard = read_shard(store, done.shard)
    expected = [expected_log_probs(text) for text in texts if text != "unparseable"]
    np.testing.assert_allclose(shard.log_probs(), expected, atol=2e-3)


def test_a_row_at_which_sorting_into_batches_raises_is_set_aside_alone():
    class Picky(MemoryTeacher):
        def batches(self, inputs, rows):
            if any("untokenizable" in text for text in inputs.to_pylist()):
                raise ValueError("no such character")
            return [np.arange(len(inputs))]

        def log_probs(self, inputs):
            self.batches(inputs, 1)  # the same tokenizer
            return super().log_probs(inputs)

    store, texts = MemoryStore(), [f"text {row}" for row in range(7)]
    source = MemorySource({"p": [*texts, "untokenizable"]})
    done = labeller_of(source, store=store, teacher=Picky()).label(assignment_of(source, 0, 8))
    assert isinstance(done, Labelled)
    assert done.shard
    assert [bad.reason for bad in done.bad] == ["the teacher failed: ValueError: no such character"]
    assert sorted(read_shard(store, done.shard).table["input"].to_pylist()) == texts


def test_a_server_that_is_gone_while_batches_are_made_blames_no_row():
    class Gone(MemoryTeacher):
        def batches(self, inputs, rows):
            raise TeacherUnavailableError("http://x", "gone")

    source = MemorySource({"p": ["text"] * 3})
    with pytest.raises(TeacherUnavailableError):
        labeller_of(source, teacher=Gone()).label(assignment_of(source, 0, 3))


def test_a_worker_whose_store_is_not_the_drivers_says_so_before_it_labels(tmp_path):
    (tmp_path / "mine_here.py").write_text("def sure(inputs):\n    return [[0.9, 0.1] for _ in inputs]\n")
    (tmp_path / "samples.jsonl").write_text('{"text": "one"}\n')
    log = LogWriter.open(LocalStore(tmp_path / "shared"), holder="h", classes=("ham", "spam"), nonce="n", now_unix_s=0).state.log
    spec = LabellerSpec(
        store_url=str(tmp_path / "shared"),
        source=SourceSpec(section=SourceSection(path="samples.jsonl"), base=tmp_path),
        teacher=TeacherSection(use="mine_here:sure"),
        classes=("ham", "spam"),
        base=tmp_path,
        log=log,
    )
    Labeller.load(spec)
    with pytest.raises(StoreNotSharedError, match=r"/mine: node .* does not see the log that the driver writes there"):
        Labeller.load(replace(spec, store_url=str(tmp_path / "mine")))
