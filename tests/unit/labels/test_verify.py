"""Looking for what is bad: every byte, the log against itself, and nothing that is fine."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.labels.entries import Commit, Entry, Plan, Repair, Seal, ShardRef
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.shard import LabelledRows, encode_shard, put_shard, read_shard
from pipeline.labels.store import LocalStore
from pipeline.labels.verify import verify
from tests.kit.labelling import CLASSES, Bench, MemorySource
from tests.kit.stores import MemoryStore
from workers.cli import app
from workers.driver.folder import write_json

TEXTS = [f"text {number}" for number in range(30)]


def labelled(store: Any = None) -> Any:
    store = store or MemoryStore()
    Bench(store, MemorySource({"a": TEXTS})).run()
    return store


def test_sound_labels_are_sound_and_every_row_was_looked_at() -> None:
    store, told = labelled(), list[tuple[int, int]]()
    found = verify(store, progress=lambda *rows: told.append(rows))
    assert (found.sound, found.rows, found.rows_left, found.orphans) == (True, 30, 0, 0)
    assert found.windows == len(LogReader(store).refresh().windows)
    assert told[-1] == (30, 30)


def test_an_attempt_that_was_never_committed_is_counted_and_no_fault() -> None:
    store = labelled()
    store.put("shards/000000000000-000000000004-1.99.arrow", b"12345")
    found = verify(store)
    assert (found.sound, found.orphans, found.orphan_bytes) == (True, 1, 5)


def test_rows_that_wait_are_counted_and_no_fault() -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": TEXTS}))
    bench.run()
    bench.source.texts["b"] = ["new", "newer"]
    bench.labelling(2).plan()
    assert (verify(store).sound, verify(store).rows_left) == (True, 2)


def swapped(store: Any, **other: Any) -> None:
    """Replace the first committed shard, with its commit's blessing, by one that differs in what `other` says."""
    state = LogReader(store).refresh()
    commit = state.commits[0]
    shard = read_shard(store, state.shard_of(commit))
    labelled_rows = LabelledRows(
        rows_N=shard.table["row"].to_numpy() + other.get("shift", 0),
        sample_ids=shard.table["sample_id"].combine_chunks(),
        inputs=shard.table["input"].combine_chunks(),
        log_probs_NK=shard.log_probs(),
        labels=shard.table["label"].combine_chunks(),
    )
    data = encode_shard(labelled_rows, teacher=other.get("teacher", shard.teacher), classes=other.get("classes", CLASSES))
    ref = put_shard(store, "shards/other.arrow", data, rows=len(shard.table))
    append(store, Repair(shard=commit.shard.key, by=ref, teacher=shard.teacher))


def append(store: Any, *entries: Entry) -> None:
    writer = LogWriter.open(store, holder="the test", classes=CLASSES, nonce="test", now_unix_s=0)
    writer.queue(entries)
    writer.flush(now_unix_s=0)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"shift": 1}, "its rows are not those of its commit"),
        ({"classes": ("spam", "ham")}, "its classes are"),
        ({"teacher": "somebody"}, "its teacher is somebody"),
    ],
)
def test_an_intact_shard_with_other_content_is_bad(other: dict[str, Any], says: str) -> None:
    store = labelled()
    swapped(store, **other)
    (bad,) = verify(store).bad
    assert says in bad.problem


def test_a_window_that_was_sealed_with_other_rows_and_a_shard_that_is_none_are_told() -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": TEXTS}))
    bench.run()
    state = LogReader(store).refresh()
    part = Plan(part="b", name="b", first=30, rows=4, stride=1)
    shard = put_shard(store, "shards/b.arrow", b"x", rows=4)
    commit = Commit(start=30, stop=34, shard=shard, teacher="teacher-1", teacher_s=0.0)
    commits = len(state.commits)
    append(store, part, commit, Seal(window=len(state.windows), first_commit=commits, stop_commit=commits + 1, rows=5))
    found = verify(store)
    assert [(bad.shard, bad.rows) for bad in found.bad] == [("shards/b.arrow", 4)]
    assert found.problems == (f"window {len(state.windows)} was sealed with 5 rows and holds 4",)
    assert not found.sound


def test_a_repair_of_what_was_never_committed_is_told() -> None:
    store = labelled()
    append(store, Repair(shard="shards/no", by=ShardRef(key="shards/by", rows=1, bytes=1, crc32=1), teacher="teacher-1"))
    assert verify(store).problems == ("shards/no was repaired and never committed",)


def run_verb(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["labels", "verify", str(folder), *words])


def test_the_verb_notes_what_is_bad_for_the_next_run_and_forgets_it_once_it_is_not(tmp_path: Path) -> None:
    write_json(tmp_path / "origin.json", {"base": "", "run": {"labelling": {}}})
    store = labelled(LocalStore(tmp_path / "labels"))
    key = LogReader(store).refresh().commits[0].shard.key
    good = store.get(key)
    store.put(key, good[:-1])
    told = run_verb(tmp_path)
    assert told.exit_code == 4
    assert f"bad: {key}" in told.stdout
    assert "kdpipe labels repair" in told.stdout
    assert json.loads((tmp_path / "bad-shards.json").read_bytes()) == [key]
    store.put(key, good)
    told = run_verb(tmp_path, "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["rows"] == 30
    assert not (tmp_path / "bad-shards.json").exists()
