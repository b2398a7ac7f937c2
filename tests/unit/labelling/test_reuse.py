"""Known content is labelled for nothing, from plan to end: bit for bit, and nothing else changes."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.labels.content import no_keys
from pipeline.labels.known.index import TABLES
from pipeline.labels.log import LogReader
from pipeline.labels.shard import encode_shard, label_columns, read_shard
from pipeline.labels.store import Store
from pipeline.labels.verify import summarise
from pipeline.teachers.teacher import Answer
from tests.kit.labelling import CLASSES, Bench, MemorySource, assert_exactly_once, expected_log_probs
from tests.kit.shards import of_version_1
from tests.kit.stores import MemoryStore
from workers.labelling import Demand, LabellingOutcome, labeller
from workers.labelling.faults import TeacherFailsError
from workers.labelling.reuse import REFRESH_EVERY_S, Reuse

KNOWN, NEW = [f"known {number}" for number in range(40)], [f"new {number}" for number in range(40)]


class InMemory(Bench):
    """A bench whose store takes faults."""

    store: MemoryStore


def first_file(**section: Any) -> InMemory:
    """One file is labelled, and a second comes of which every other row is in it."""
    bench = InMemory(MemoryStore(), MemorySource({"first": KNOWN}), **section)
    bench.run(1)
    bench.source.texts["second"] = [text for pair in zip(reversed(KNOWN), NEW, strict=True) for text in pair]
    bench.teacher.asked.clear()
    return bench


def stored(store: Store) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Part -> text -> label columns, as the committed shards hold them."""
    state, found = LogReader(store).refresh(), dict[str, dict[str, tuple[Any, ...]]]()
    for commit in state.commits:
        table = read_shard(store, state.shard_of(commit)).table
        labels = zip(*(table[name].to_pylist() for name in label_columns(table.schema)), strict=True)
        for sample, text, label in zip(table["sample_id"].to_pylist(), table["input"].to_pylist(), labels, strict=True):
            found.setdefault(sample.partition(":")[0], {})[text] = label
    return found


def stored_column(store: Store, name: str) -> dict[str, set[Any]]:
    """Text -> what the column says of it, in whichever shard."""
    state, found = LogReader(store).refresh(), dict[str, set[Any]]()
    for commit in state.commits:
        table = read_shard(store, commit.shard).table
        for text, value in zip(table["input"].to_pylist(), table[name].to_numpy(), strict=True):
            found.setdefault(text, set()).add(value)
    return found


def reused(outcome: LabellingOutcome, store: Store) -> tuple[int, int]:
    """(asked, reused) of a run; the log says the same."""
    state = LogReader(store).refresh()
    assert state.rows_reused == sum(commit.reused for commit in state.commits)
    assert summarise(store).rows_committed == state.rows_labelled
    return outcome.teacher_calls, outcome.rows_reused


@pytest.mark.parametrize("codec", ["dense_fp16", "sampled"])
def test_half_of_a_second_file_known_halves_what_the_teacher_is_asked(codec):
    bench = first_file(codec=codec)
    assert reused(bench.run(2), bench.store) == (40, 40)
    assert sorted(bench.teacher.asked) == sorted(NEW)
    labels = stored(bench.store)
    assert {text: labels["second"][text] for text in KNOWN} == labels["first"]
    if codec == "dense_fp16":  # one draw in a sample says little of the answer
        assert_exactly_once(bench.store, bench.source, generation=2)


def test_known_rows_stay_samples_of_their_own_in_their_order():
    apart, together = first_file(reuse=False), first_file()
    for bench in (apart, together):
        bench.run(2)
    for store in (apart.store, together.store):
        assert_exactly_once(store, together.source, generation=2)
    rows = [
        [(commit.start, commit.stop, commit.shard.rows) for commit in LogReader(bench.store).refresh().commits]
        for bench in (apart, together)
    ]
    assert sorted(rows[0]) == sorted(rows[1])


def test_nothing_is_reused_where_that_is_not_wanted():
    bench = first_file(reuse=False)
    assert reused(bench.run(2), bench.store) == (80, 0)
    assert not [key for key in bench.store.objects if key.startswith("known/")]


def test_labels_of_another_teacher_are_not_reused():
    bench = first_file()
    bench.teacher.fingerprint = "teacher-2"
    bench.section = bench.section.model_copy(update={"mixed_teachers": True})
    assert reused(bench.run(2), bench.store) == (80, 0)
    assert {commit.teacher for commit in LogReader(bench.store).refresh().commits} == {"teacher-1", "teacher-2"}


def test_labels_of_another_codec_are_not_reused():
    bench = first_file()
    bench.section = bench.section.model_copy(update={"codec": "sampled"})
    assert reused(bench.run(2), bench.store) == (80, 0)


def test_a_teacher_that_is_not_deterministic_is_asked_about_every_row():
    bench = first_file()
    bench.teacher.deterministic = False
    assert reused(bench.run(2), bench.store) == (80, 0)


def test_an_input_that_comes_again_in_a_unit_is_asked_about_once():
    bench = InMemory(MemoryStore(), MemorySource({"a": ["same", "same", "other", "same"] * 2}), unit_rows=8)
    assert reused(bench.run(), bench.store) == (2, 6)
    assert_exactly_once(bench.store, bench.source)


def test_a_repeated_input_has_all_that_the_teacher_said_of_it(monkeypatch):
    bench = InMemory(MemoryStore(), MemorySource({"a": ["same", "other", "same"]}), unit_rows=3)

    def answer(inputs: Any) -> Answer:
        texts = inputs.to_pylist()
        apart_B = np.array([len(text) / 100 for text in texts], dtype=np.float32)
        return Answer(log_probs_BK=np.stack([expected_log_probs(text) for text in texts]), disagreement_B=apart_B)

    monkeypatch.setattr(bench.teacher, "answer", answer, raising=False)
    bench.run()
    bench.source.texts["b"] = ["other", "new one", "same"]
    bench.run(2)
    apart = stored_column(bench.store, "disagreement")
    assert apart == {"same": {np.float32(0.04)}, "other": {np.float32(0.05)}, "new one": {np.float32(0.07)}}


class Contradicting(MemorySource):
    """The hard labels of the part `b` are never those of the same texts elsewhere."""

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        batch = super().read(identity, rows)
        if identity != "b":
            return batch
        others = pa.array([CLASSES[1 - CLASSES.index(label)] for label in batch["label"].to_pylist()])
        return batch.set_column(batch.schema.get_field_index("label"), "label", others)


def test_a_known_row_agrees_with_its_own_hard_label():
    bench = InMemory(MemoryStore(), Contradicting({"a": KNOWN}))
    bench.run(1)
    agreed = stored_column(bench.store, "agreement")
    bench.source.texts["b"] = KNOWN
    assert reused(bench.run(2), bench.store) == (0, 40)
    for text, both in stored_column(bench.store, "agreement").items():
        (other,) = both - agreed[text]
        assert other == pytest.approx(1 - next(iter(agreed[text])), abs=2e-3)


def test_labels_of_shards_of_version_1_are_known(monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(labeller, "encode_shard", lambda *shard, **how: of_version_1(encode_shard(*shard, **how)))
        bench = first_file()
    assert {np.isnan(*agreed) for agreed in stored_column(bench.store, "agreement").values()} == {True}
    assert reused(bench.run(2), bench.store) == (40, 40)
    assert_exactly_once(bench.store, bench.source, generation=2)


def test_a_file_of_which_everything_is_known_asks_nothing():
    bench = first_file()
    bench.source.texts["second"] = KNOWN[10:30]
    assert reused(bench.run(2), bench.store) == (0, 20)
    assert_exactly_once(bench.store, bench.source, generation=2)


def test_a_bad_input_that_comes_again_is_quarantined_each_time():
    bench = InMemory(MemoryStore(), MemorySource({"a": ["poison", "fine", "poison", "nan", "nan", "fine"]}), unit_rows=6)
    assert reused(bench.run(), bench.store) == (3, 1)
    assert LogReader(bench.store).refresh().rows_quarantined == 4
    assert_exactly_once(bench.store, bench.source)


def test_a_row_that_was_quarantined_is_not_known_and_is_asked_about_again():
    bench = InMemory(MemoryStore(), MemorySource({"a": [*KNOWN, "nan"]}))
    bench.run(1)
    bench.source.texts["b"] = ["nan", *NEW]
    assert reused(bench.run(2), bench.store) == (41, 0)
    assert_exactly_once(bench.store, bench.source, generation=2)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_rows_of_a_bad_shard_are_asked_about(damage):
    bench = first_file()
    commit = LogReader(bench.store).refresh().commits[3]
    if damage == "flipped":
        bench.store.flip_bit(commit.shard.key, at=commit.shard.bytes // 2)
    else:
        del bench.store.objects[commit.shard.key]
    assert reused(bench.run(2), bench.store) == (40 + commit.shard.rows, 40 - commit.shard.rows)


@pytest.mark.parametrize("damage", ["lost", "flipped", "unreadable"])
def test_a_bad_index_stops_no_run(damage):
    bench = first_file()
    bench.run(2)
    bench.source.texts["third"] = [*NEW, *(f"third {number}" for number in range(20))]
    for key in [key for key in bench.store.objects if key.startswith("known/")]:
        if damage == "lost":
            del bench.store.objects[key]
        elif damage == "flipped":
            bench.store.flip_bit(key, at=40)
        else:
            bench.store.fail(f"get {key}", OSError("EIO"))
    outcome = bench.run(3)
    assert (outcome.ended, outcome.teacher_calls + outcome.rows_reused) == (True, 60)
    assert_exactly_once(bench.store, bench.source, generation=3)


def test_a_full_disk_costs_the_index_and_not_the_run():
    bench = first_file()
    bench.store.fail(f"put {TABLES}", OSError("ENOSPC"))
    assert reused(bench.run(2), bench.store) == (80, 0)


def test_a_repair_asks_the_teacher_and_no_known_label():
    bench = first_file()
    bench.run(2)
    state = LogReader(bench.store).refresh()
    bad = next(commit for commit in state.commits if commit.reused)
    bench.store.flip_bit(bad.shard.key, at=bad.shard.bytes // 2)
    bench.teacher.asked.clear()
    bench.run(3, demand=lambda: Demand(corrupt=frozenset([bad.shard.key])))
    assert len(bench.teacher.asked) == bad.shard.rows
    assert_exactly_once(bench.store, bench.source, generation=3)


def test_a_row_that_a_repair_forgot_is_no_known_content():
    bench = first_file()
    bad = LogReader(bench.store).refresh().commits[0]
    texts = read_shard(bench.store, bad.shard).table["input"].to_pylist()
    bench.store.flip_bit(bad.shard.key, at=bad.shard.bytes // 2)
    forgotten, bench.source.texts["first"] = texts[0], ["unparseable" if text == texts[0] else text for text in KNOWN]
    bench.labelling(1).repair(frozenset([bad.shard.key]), progress=lambda _: None, stop=threading.Event())
    assert LogReader(bench.store).refresh().tombstoned.rows == 1
    bench.teacher.asked.clear()
    assert reused(bench.run(2), bench.store) == (41, 39)
    assert forgotten in bench.teacher.asked


def known_beside(text: str, *, known_rows: Callable[[int], bool]) -> InMemory:
    """A second file, of which some rows are known and each of the others says `text` in its own way. A unit is every tenth row."""
    bench = InMemory(MemoryStore(), MemorySource({"a": KNOWN}), unit_rows=8)
    bench.run(1)
    bench.source.texts["b"] = [KNOWN[row % 40] if known_rows(row) else f"{text} {row}" for row in range(80)]
    bench.teacher.asked.clear()
    return bench


def half_of_every_unit(row: int) -> bool:
    return row // 10 % 2 == 1


def most_units(row: int) -> bool:
    return row % 10 not in (0, 3, 6)


def test_where_the_teacher_fails_on_all_that_is_new_it_is_asked_about_what_is_known():
    bench = known_beside("poison", known_rows=half_of_every_unit)
    bench.run(2)
    state = LogReader(bench.store).refresh()
    assert (state.rows_labelled, state.rows_quarantined) == (80, 40)
    assert len(bench.teacher.asked) == 40
    assert_exactly_once(bench.store, bench.source, generation=2)


@pytest.mark.parametrize("known_rows", [half_of_every_unit, most_units])
def test_known_labels_do_not_vouch_for_a_teacher_that_went_bad(monkeypatch, known_rows):
    bench = known_beside("new", known_rows=known_rows)

    def broken(_inputs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(bench.teacher, "log_probs", broken)
    with pytest.raises(TeacherFailsError):
        bench.run(2)
    assert LogReader(bench.store).refresh().rows_quarantined == 0


def test_what_is_committed_meanwhile_is_found_by_those_who_label_on(monkeypatch):
    monkeypatch.setattr("workers.labelling.committer.INDEX_COMMITS", 1)
    monkeypatch.setattr("workers.labelling.reuse.REFRESH_EVERY_S", 0.0)
    bench = InMemory(MemoryStore(), MemorySource({"a": KNOWN, "b": KNOWN}), workers_max=1)
    asked, copied = reused(bench.run(), bench.store)
    assert asked + copied == 80
    assert copied > 20
    assert_exactly_once(bench.store, bench.source)


def test_the_index_is_looked_at_again_now_and_then_and_not_at_each_unit():
    bench, now_s = first_file(), [0.0]
    bench.run(2)
    bench.store.steps.clear()
    looking = Reuse(bench.store, maker=b"maker", clock=lambda: now_s[0])
    keys = no_keys(3)
    for now_s[0] in (0.0, 1.0, REFRESH_EVERY_S - 0.1, REFRESH_EVERY_S, REFRESH_EVERY_S + 1):
        looking.look(keys)
    assert sum(step == "list known/manifests/" for step in bench.store.steps) == 2


def test_a_labeller_without_reuse_writes_no_keys():
    bench = first_file(reuse=False)
    commit = LogReader(bench.store).refresh().commits[0]
    assert "content_key" not in read_shard(bench.store, commit.shard).table.schema.names
