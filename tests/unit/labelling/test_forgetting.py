"""Forgetting samples: nothing of them is left in the store, whatever crashed, and nothing else changes."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.config import load
from pipeline.errors import ConfigError, FolderBusyError
from pipeline.files import TEMPORARY
from pipeline.labels.codecs import DENSE_FP16
from pipeline.labels.content import content_keys, key_column
from pipeline.labels.entries import Plan, Retry
from pipeline.labels.holder import LogHeldError
from pipeline.labels.known import index_commits
from pipeline.labels.known.table import mixed
from pipeline.labels.log import FencedError, LogReader, LogWriter
from pipeline.labels.order import Cursor
from pipeline.labels.placeholders import placeholders_of, replaced
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.shard import LabelledRows, ShardCorruptError, encode_shard, maker_of, put_shard, read_shard, shard_bytes
from pipeline.labels.store import LocalStore, Store
from pipeline.labels.stored import NothingLabelledError, StoredLabels
from pipeline.labels.verify import verify
from pipeline.teachers.teacher import Answer
from tests.kit.holders import OTHER, another_run
from tests.kit.labelling import CLASSES, Bench, MemorySource, MemoryTeacher, expected_log_probs
from tests.kit.shards import of_version_1
from tests.kit.stores import Crash, MemoryStore
from workers.cli import app
from workers.driver.folder import Holder, RunFolder, read_json, write_json
from workers.labelling.committer import shard_key
from workers.labelling.forgetting import Forgotten, forget

ADA = "Ada, 7 Rosemary Lane"
TEXTS = [f"text {number:02}" for number in range(9)] + [ADA] + [f"text {number:02}" for number in range(10, 30)]


class MappedMemory(MemoryStore):
    """What is put is put uncompressed, as on local disk, so that bytes can be searched for."""

    def map(self, key: str) -> memoryview:
        return memoryview(self.get(key))


class Named(MemorySource):
    """Each sample has the user's own id."""

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        batch = super().read(identity, rows)
        ids = [f"id of {self.texts[identity][row]}" for row in rows]
        return batch.set_column(0, batch.schema.field(0), pa.array(ids, pa.string()))


class Seeing(MemoryTeacher):
    def answer(self, inputs: pa.Array) -> Answer:
        log_probs_BK = self.log_probs(inputs)
        return Answer(log_probs_BK=log_probs_BK, embedding_BD=np.repeat(log_probs_BK[:, :1], 3, axis=1))


def labelled(store: Store, texts: list[str] = TEXTS, **section: Any) -> Bench:
    bench = Bench(store, Named({"a": texts}), **section)
    if section.get("embedding"):
        bench.teacher = Seeing()
    bench.run(1)
    if bench.section.reuse:
        state = LogReader(store).refresh()
        index_commits(store, state, term=state.term)
    return bench


def forgotten(store: Store, *samples: str, rows: Sequence[int] = (), nonce: str = "forget") -> Forgotten:
    return forget(store, samples=samples, rows=rows, holder="forget", nonce=nonce, now_unix_s=2e6)


def row_of(store: Store, text: str) -> int:
    """Global row of the only sample with that text."""
    (row,) = [row["row"] for row in everything(store) if row["input"] == text]
    return int(row)


def everything(store: Store) -> list[dict[str, Any]]:
    """All columns of all committed samples, in the order of the log."""
    state = LogReader(store).refresh()
    return [row for commit in state.commits for row in read_shard(store, state.shard_of(commit)).table.to_pylist()]


def traces(store: Store, text: str) -> set[str]:
    """Keys of objects that hold the text, or the key of its content."""
    keys_N2 = content_keys(pa.array([text]))
    state = LogReader(store).refresh()
    schema = read_shard(store, state.shard_of(state.commits[0])).table.schema
    wanted = [text.encode(), *(key_column(keys)[0].as_py() for keys in (keys_N2, mixed(keys_N2, maker_of(schema))))]
    wanted.append(mixed(keys_N2, maker_of(schema))[0, :1].tobytes())  # a table keeps the halves of a key apart
    return {key for key in store.list("") if any(trace in store.get(key) for trace in wanted)}


def live_pass(store: Store, generation: int = 1) -> LabelBatch:
    reader = LabelReader(store, generation=generation, batch=100, seed=3)
    batch = reader.read(Cursor(log=reader.start().log, seed=3, batch=100, generation=generation, epoch=1, pos=0))
    assert isinstance(batch, LabelBatch)
    return batch


SECTIONS: list[dict[str, Any]] = [
    {"codec": "dense_fp16"},
    {"codec": "top_k", "codec_k": 1},
    {"codec": "sampled", "codec_draws": 255},
    {"embedding": True},
    {"reuse": False},
]


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_nothing_of_a_forgotten_sample_is_left_and_all_others_are_as_they_were(section: dict[str, Any]) -> None:
    store = MappedMemory()
    labelled(store, **section)
    before, row = everything(store), row_of(store, ADA)
    prefixes = {key.partition("/")[0] for key in traces(store, ADA)}
    assert prefixes == ({"shards"} if section.get("reuse") is False else {"shards", "known"})
    done = forgotten(store, f"id of {ADA}")
    assert (done.rows, done.before, done.shards) == ((row,), (), 1)
    assert traces(store, ADA) == set()
    after = everything(store)
    assert [sample for sample in after if sample["row"] != row] == [sample for sample in before if sample["row"] != row]
    (left,) = (sample for sample in after if sample["row"] == row)
    assert (left["sample_id"], left["input"], left["label"], left["agreement"]) == ("a:9", "", None, None)
    assert left.get("content_key", bytes(16)) == bytes(16)
    assert left.get("embedding", [0, 0, 0]) == [0, 0, 0]
    assert verify(store).sound
    assert verify(store).orphans == 0


@pytest.mark.parametrize("kind", [MappedMemory, MemoryStore], ids=["mapped", "compressed"])
def test_readers_find_every_sample_at_its_position_and_the_forgotten_one_without_weight(kind: type[MemoryStore]) -> None:
    store = kind()
    labelled(store)
    before, row = live_pass(store), row_of(store, ADA)
    forgotten(store, f"id of {ADA}")
    after = live_pass(store)
    assert after.rows_B.tolist() == before.rows_B.tolist()
    assert after.weight_B.tolist() == [float(number != row) for number in before.rows_B]
    kept = after.weight_B > 0
    np.testing.assert_array_equal(after.log_probs_BK[kept], before.log_probs_BK[kept])
    np.testing.assert_allclose(np.exp(after.log_probs_BK[~kept]), 0.5, atol=1e-3)
    assert [sample for sample, keep in zip(before.sample_ids, kept, strict=True) if keep] == [
        sample for sample, keep in zip(after.sample_ids, kept, strict=True) if keep
    ]


def test_many_are_forgotten_at_once_by_id_and_by_row_in_one_record() -> None:
    store = MappedMemory()
    labelled(store)
    row, records = row_of(store, "text 20"), LogReader(store).refresh().next_seq
    done = forgotten(store, f"id of {ADA}", "id of text 03", rows=[row])
    assert done.rows == tuple(sorted([row_of_part(store, 9), row_of_part(store, 3), row]))
    assert LogReader(store).refresh().next_seq == records + 2, "one that takes the log over, one that says it all"
    assert not traces(store, ADA)
    assert not traces(store, "text 20")
    assert live_pass(store).weight_B.sum() == 27


def row_of_part(store: Store, row: int) -> int:
    (found,) = [sample["row"] for sample in everything(store) if sample["sample_id"] == f"a:{row}"]
    return int(found)


def test_a_whole_shard_can_be_forgotten() -> None:
    store = MappedMemory()
    labelled(store)
    commit = LogReader(store).refresh().commits[1]
    before = live_pass(store).rows_B.tolist()
    forgotten(store, rows=range(commit.start, commit.stop))
    assert live_pass(store).rows_B.tolist() == before
    assert LogReader(store).refresh().tombstoned.rows == commit.stop - commit.start
    assert verify(store).sound


def test_bytes_that_were_lost_or_replaced_before_go_too() -> None:
    store = MappedMemory()
    bench = labelled(store)
    bad, row = commit_of(store, row_of(store, ADA)), row_of(store, ADA)
    whole = store.get(bad.shard.key)
    store.put(shard_key(bad.start, bad.stop, term=1, attempt=99), whole)
    store.flip_bit(bad.shard.key, at=len(whole) - 40)
    repair(bench, bad.shard.key)
    assert len({key for key in traces(store, ADA) if key.startswith("shards/")}) == 3
    assert forgotten(store, rows=[row]).objects == 3
    assert not traces(store, ADA)


def commit_of(store: Store, row: int) -> Any:
    return next(commit for commit in LogReader(store).refresh().commits if commit.start <= row < commit.stop)


def repair(bench: Bench, key: str, *, forget: bool = True) -> Any:
    return bench.labelling(9).repair(frozenset({key}), progress=lambda _: None, stop=threading.Event(), forget=forget)


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_anywhere_leaves_labels_sound_and_the_verb_run_again_finishes(after: bool) -> None:
    crashes, crashed, gone_before = 0, True, 0
    while crashed:
        store = MappedMemory()
        labelled(store)
        order, row = live_pass(store).rows_B.tolist(), row_of(store, ADA)
        store.crash_at(crashes, after=after)
        try:
            forgotten(store, f"id of {ADA}")
            crashed = False
        except Crash:
            crashes += 1
        store.revive()
        assert verify(store).sound
        gone = LogReader(store).refresh().tombstoned.rows == 1
        gone_before += gone and bool(traces(store, ADA))
        if gone:
            with pytest.raises(ConfigError, match="one that was forgotten has no id here any more"):
                forgotten(store, f"id of {ADA}", nonce="again")
        else:
            assert forgotten(store, f"id of {ADA}", nonce="again").rows == (row,)
        assert not traces(store, ADA)
        assert verify(store).sound
        assert verify(store).orphans == 0
        assert live_pass(store).rows_B.tolist() == order
        assert list(LogReader(store).refresh().tombstoned) == [(row, row + 1)]
    assert crashes == 7, "two records, a shard, two objects of the index, an old shard, the hint"
    assert gone_before, "a crash between the record and the deletion is among them"


def test_a_run_after_a_crash_indexes_nothing_of_what_was_forgotten() -> None:
    store = MappedMemory()
    bench = labelled(store)
    store.crash_before("delete shards/")
    with pytest.raises(Crash):
        forgotten(store, f"id of {ADA}")
    store.revive()
    bench.source.texts["b"] = ["something new"]
    bench.run(3)
    bench.run(4)
    assert list(store.list("known/tables/"))
    assert not {key for key in traces(store, ADA) if key.startswith("known/")}


def test_again_there_is_nothing_to_do() -> None:
    store = MappedMemory()
    labelled(store)
    row = row_of(store, ADA)
    forgotten(store, rows=[row])
    objects = {key: store.get(key) for key in store.list("shards/")}
    again = forgotten(store, "a:9", rows=[row], nonce="again")
    assert (again.rows, again.before, again.shards, again.objects) == ((), (row,), 0, 0)
    assert {key: store.get(key) for key in store.list("shards/")} == objects


def test_a_second_sample_of_a_shard_is_forgotten_and_the_first_stays_so() -> None:
    store = MappedMemory()
    labelled(store)
    commit = commit_of(store, row_of(store, ADA))
    other = next(sample for sample in everything(store) if commit.start <= sample["row"] < commit.stop and sample["input"] != ADA)
    forgotten(store, f"id of {ADA}")
    assert forgotten(store, other["sample_id"], nonce="second").objects == 1
    assert not traces(store, ADA)
    assert not traces(store, other["sample_id"])
    assert live_pass(store).weight_B.sum() == 28
    assert verify(store).orphans == 0


def test_a_later_repair_does_not_read_it_from_the_source_again() -> None:
    store = MappedMemory()
    bench = labelled(store)
    commit = commit_of(store, row_of(store, ADA))
    forgotten(store, f"id of {ADA}")
    before = everything(store)
    key = LogReader(store).refresh().shard_of(commit).key
    store.flip_bit(key, at=len(store.get(key)) - 40)
    bench.teacher.asked.clear()
    outcome = repair(bench, commit.shard.key, forget=False)
    assert (outcome.repaired, outcome.rows_forgotten, outcome.refused) == ((commit.shard.key,), 0, {})
    assert len(bench.teacher.asked) == commit.shard.rows - 1
    assert ADA not in bench.teacher.asked
    store.delete(key)
    assert not traces(store, ADA)
    assert everything(store) == before


def test_a_repair_of_a_shard_that_is_all_forgotten_reads_nothing() -> None:
    store = MappedMemory()
    bench = labelled(store)
    commit = LogReader(store).refresh().commits[0]
    forgotten(store, rows=range(commit.start, commit.stop))
    before = everything(store)
    store.delete(LogReader(store).refresh().shard_of(commit).key)
    bench.source.reads.clear()
    assert repair(bench, commit.shard.key, forget=False).repaired == (commit.shard.key,)
    assert not bench.source.reads
    assert everything(store) == before


def test_what_a_repair_has_to_give_up_leaves_its_place_and_nothing_else() -> None:
    store = MappedMemory()
    poison = f"poison of {ADA}"
    bench = Bench(store, Named({"a": [*TEXTS, "text 30"]}))
    bench.run(1)
    row = row_of(store, "text 30")
    commit = commit_of(store, row)
    store.delete(commit.shard.key)
    bench.source.texts["a"][30] = poison
    assert repair(bench, commit.shard.key).rows_forgotten == 1
    assert not traces(store, poison)
    (given_up,) = (sample for sample in everything(store) if sample["row"] == row)
    assert (given_up["input"], given_up["label"]) == ("", None)


def test_the_same_content_in_another_row_stays_and_the_forgotten_row_vouches_for_nobody() -> None:
    store = MappedMemory()
    bench = labelled(store)
    bench.source.texts["b"] = ["new", f"{ADA}"]
    bench.run(3)
    first = next(sample["row"] for sample in everything(store) if sample["input"] == ADA)
    forgotten(store, rows=[first])
    (copy,) = (sample for sample in everything(store) if sample["input"] == ADA)
    assert copy["row"] != first
    forgotten(store, rows=[copy["row"]], nonce="second")
    bench.teacher.asked.clear()
    bench.source.texts["c"] = [ADA, "text 01"]
    bench.run(4)
    assert bench.teacher.asked == [ADA]


def test_a_sample_whose_file_was_replaced_can_be_forgotten() -> None:
    store = MappedMemory()
    bench = labelled(store)
    bench.source.replace("a", [text for text in TEXTS if text != ADA])
    bench.run(3)
    row = row_of(store, ADA)
    assert forgotten(store, f"id of {ADA}").rows == (row,)
    assert not traces(store, ADA)
    assert LogReader(store).refresh().weightless().overlaps(row, row + 1)
    bench.run(4)
    assert verify(store).sound


@pytest.mark.parametrize("rows", [[], [1]])
def test_an_id_that_nobody_has_is_named_with_an_example_and_nothing_is_forgotten(rows: list[int]) -> None:
    store = MappedMemory()
    labelled(store)
    before = {key: store.get(key) for key in store.list("") if not key.startswith("log/")}
    with pytest.raises(ConfigError, match=r"no labelled sample 'nobody'; expected an id like 'id of text .*take it out of its source"):
        forgotten(store, f"id of {ADA}", "nobody", rows=rows)
    assert {key: store.get(key) for key in store.list("") if not key.startswith("log/")} == before
    assert not LogReader(store).refresh().tombstoned


def test_a_row_without_a_label_is_refused_with_the_reason() -> None:
    store = MappedMemory()
    bench = Bench(store, Named({"a": [*TEXTS, "poison"]}))
    bench.run(1)
    quarantined = next(iter(LogReader(store).refresh().set_aside))[0]
    bench.source.texts["b"] = ["not yet"]
    bench.labelling(2).plan()
    for row, why in ((quarantined, "is quarantined and has no label"), (31, "is planned and not labelled yet"), (32, "0 to 31")):
        with pytest.raises(ConfigError, match=why):
            forgotten(store, f"id of {ADA}", rows=[row], nonce=str(row))
    assert not LogReader(store).refresh().tombstoned


def test_a_bad_shard_that_may_hold_the_sample_stops_it() -> None:
    store = MappedMemory()
    labelled(store)
    store.flip_bit(LogReader(store).refresh().commits[0].shard.key, at=100)
    with pytest.raises(ShardCorruptError):
        forgotten(store, f"id of {ADA}")


def test_without_labels_there_is_nothing_to_forget() -> None:
    store = MappedMemory()
    with pytest.raises(NothingLabelledError):
        forgotten(store, "x")
    assert not list(store.list(""))


def test_a_writer_that_was_there_before_is_fenced() -> None:
    store = MappedMemory()
    labelled(store)
    old = LogWriter.open(store, holder="old", classes=CLASSES, nonce="old", now_unix_s=0)
    forgotten(store, f"id of {ADA}")
    old.queue([Plan(part="x", name="x", first=30, rows=1, stride=1)])
    with pytest.raises(FencedError, match="forget"):
        old.flush(now_unix_s=0)


def test_a_placeholder_among_numbers_is_as_wide_as_they_are_and_an_old_shard_becomes_a_new_one() -> None:
    store = MappedMemory()
    rows = LabelledRows(
        rows_N=np.arange(5, 9),
        sample_ids=pa.array(list("abcd")),
        inputs=pa.array([[1.0, 2.0, 3.0]] * 4, pa.list_(pa.float32())),
        log_probs_NK=np.log(np.full((4, 2), 0.5, dtype=np.float32)),
        labels=pa.array(["ham", None, "spam", None]),
        disagreement_N=np.full(4, 0.25, dtype=np.float32),
    )
    data = of_version_1(encode_shard(rows, teacher="t", classes=CLASSES, codec=DENSE_FP16))
    old = read_shard(store, put_shard(store, "shards/old", data, rows=4))
    places = np.array([0, 3])
    plan = Plan(part="p", name="p", first=5, rows=4, stride=1)
    batch = replaced(old.table, places, placeholders_of(old, plan, places))
    new = read_shard(store, put_shard(store, "shards/new", shard_bytes(batch, compressed=True), rows=4))
    assert new.table["sample_id"].to_pylist() == ["p:0", "b", "c", "p:3"]
    assert new.table["input"].to_pylist() == [[0, 0, 0], [1, 2, 3], [1, 2, 3], [0, 0, 0]]
    assert new.table["label"].to_pylist() == [None, None, "spam", None]
    assert new.table["disagreement"].to_pylist() == [None, 0.25, 0.25, None]
    assert new.table["agreement"].to_pylist() == [None] * 4


RUN = """
name = "mine"
classes = ["ham", "spam"]
[stream]
path = "stream"
[validation]
path = "stream"
[teacher]
use = "memory:load"
[students.tiny]
[fleet.populations.phones]
student = "tiny"
devices = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path)
    run = load(RUN, where="run.toml").model_dump(mode="json")
    write_json(found.origin_file, {"base": str(tmp_path), "name": "run.toml", "run": run})
    labelled(LocalStore(found.labels))
    return found


def verb(folder: RunFolder, *words: str) -> Any:
    return CliRunner().invoke(app, ["labels", "forget", str(folder.root), *words], catch_exceptions=False)


def test_the_verb_leaves_no_byte_on_disk_not_even_in_a_half_written_file(folder: RunFolder) -> None:
    store, row = LocalStore(folder.labels), row_of(LocalStore(folder.labels), ADA)
    (folder.labels / "shards" / f"{TEMPORARY}young").write_text(ADA)
    heartbeat = folder.labels / f"{TEMPORARY}heartbeat"
    heartbeat.write_text("another's")
    told = verb(folder, "--sample", f"id of {ADA}", "--sample", "id of text 01").stdout
    assert f"forgotten: row {row}\n" in told
    assert "2 samples" in told
    assert not [path for path in folder.root.rglob("*") if path.is_file() and ADA.encode() in path.read_bytes()]
    assert heartbeat.exists()
    assert verify(store).sound
    assert json.loads(verb(folder, "--row", str(row), "--json").stdout) == {
        "rows": [],
        "before": [row],
        "shards": 0,
        "objects": 0,
        "bytes": 0,
    }


def test_the_verb_wants_to_know_which(folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match="no samples named; expected --sample ID or --row N"):
        verb(folder)


def test_a_live_run_is_left_alone(folder: RunFolder) -> None:
    with Holder(folder), pytest.raises(FolderBusyError):
        verb(folder, "--row", "1")


def test_labels_that_a_live_run_of_another_folder_writes_are_left_alone(folder: RunFolder) -> None:
    origin = read_json(folder.origin_file)
    origin["run"]["labelling"]["store"] = "elsewhere"
    write_json(folder.origin_file, origin)
    store = LocalStore(folder.root / "elsewhere")
    labelled(store)
    term = LogReader(store).refresh().term
    with another_run(store), pytest.raises(LogHeldError, match=OTHER):
        verb(folder, "--sample", f"id of {ADA}")
    assert LogReader(store).refresh().term == term, "the live run is not fenced"
    assert "1 samples" in verb(folder, "--sample", f"id of {ADA}").stdout
    assert not traces(store, ADA)


class Mended(MemoryTeacher):
    """Chokes on nothing any more."""

    def log_probs(self, inputs: Any) -> Any:
        return np.stack([expected_log_probs(text) for text in inputs.to_pylist()])


def test_a_row_that_was_retried_is_shown_and_forgotten_where_it_lies_now() -> None:
    store = MappedMemory()
    bench = Bench(store, Named({"a": ["one", "poison", "three"]}), unit_rows=8)
    bench.run(1)
    row = 1
    with pytest.raises(ConfigError, match="quarantined"):
        StoredLabels(store).at(row)
    writer = LogWriter.open(store, holder="retry", classes=CLASSES, nonce="retry", now_unix_s=1.0)
    writer.queue([Retry(start=row, stop=row + 1)])
    writer.flush(now_unix_s=1.0)
    with pytest.raises(ConfigError, match="planned and not labelled yet"):
        StoredLabels(store).at(row)
    bench.teacher = Mended()
    bench.run(2)
    assert StoredLabels(store).at(row).input == "poison"
    assert forgotten(store, rows=[row]).rows == (row,)
    assert not traces(store, "poison")
    assert StoredLabels(store).at(row).weight == 0
