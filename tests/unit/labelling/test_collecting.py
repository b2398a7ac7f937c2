"""Deleting what no reader can need: all of that, never more, and nothing at all when only asked."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.config import load
from pipeline.errors import FolderBusyError
from pipeline.files import TEMPORARY
from pipeline.labels import manifest
from pipeline.labels.entries import End
from pipeline.labels.export import export
from pipeline.labels.holder import LogHeldError
from pipeline.labels.log import FencedError, LogReader, LogWriter
from pipeline.labels.manifest import GRACE_S, MANIFESTS, SEGMENTS
from pipeline.labels.retention import Retention
from pipeline.labels.store import LocalStore
from pipeline.labels.stored import StoredLabels
from pipeline.labels.verify import verify
from tests.kit.holders import OTHER, another_run
from tests.kit.labelling import CLASSES, Bench, MemorySource, assert_exactly_once
from tests.kit.stores import Crash, MemoryStore
from workers.cli import app
from workers.driver.folder import Holder, RunFolder, read_json, write_json
from workers.labelling.collecting import collect, would_collect
from workers.labelling.committer import shard_key

NOW_UNIX_S = 2_000_000.0
LOST = shard_key(0, 4, term=1, attempt=99)


def collected(store: Any, **policy: Any) -> Any:
    return collect(store, Retention(**policy), holder="gc", nonce="gc", now_unix_s=NOW_UNIX_S)


def labelled(store: Any, generations: int = 3, **section: Any) -> Bench:
    bench = Bench(store, MemorySource({}), **section)
    for generation in range(1, generations + 1):
        bench.source.texts[f"part {generation}"] = [f"text {generation} {row}" for row in range(20)]
        bench.run(generation)
    return bench


def repaired(bench: Bench) -> str:
    """The key of a shard that went bad and was labelled again."""
    key = LogReader(bench.store).refresh().commits[0].shard.key
    bench.store.put(key, b"bad")
    bench.labelling(9).repair(frozenset({key}), progress=lambda now: None, stop=threading.Event())
    return key


def test_every_kind_of_garbage_goes_and_every_label_stays() -> None:
    store = MemoryStore()
    bench = labelled(store)
    bad = repaired(bench)
    store.put(LOST, b"12345")
    before = StoredLabels(store).first(1000)
    found = collected(store)
    assert (dict(found.attempts), dict(found.replaced), dict(found.dropped)) == ({LOST: 5}, {bad: 3}, {})
    assert not {LOST, bad} & set(store.list(""))
    assert StoredLabels(store).first(1000) == before
    assert_exactly_once(store, bench.source, generation=3)
    assert verify(store).orphans == 0
    assert not collected(store).objects


def test_what_the_policy_lets_go_of_is_said_before_it_goes(tmp_path: Path) -> None:
    store = MemoryStore()
    labelled(store)
    dropped = {commit.shard.key for commit in LogReader(store).refresh().commits if commit.start < 40}
    assert set(collected(store, keep_bytes=0).dropped) == dropped
    state = LogReader(store).refresh()
    assert state.rows_kept == export(store, tmp_path / "out") == 20
    assert state.swept_commits == state.dropped_commits == len(dropped)
    assert verify(store).sound


def test_asking_what_would_go_writes_nothing_and_is_what_goes() -> None:
    store = MemoryStore()
    repaired(labelled(store))
    store.put(LOST, b"12345")
    objects = {key: store.get(key) for key in store.list("")}
    policy = Retention(keep_bytes=0)
    would = would_collect(store, policy, now_unix_s=NOW_UNIX_S)
    assert {key: store.get(key) for key in store.list("")} == objects
    assert would.dropped
    assert collected(store, keep_bytes=0) == would


def test_records_and_segments_go_after_their_grace_and_the_log_reads_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "FILE_FACTS", 8)
    store = MemoryStore()
    bench = labelled(store, unit_rows=2)
    before = LogReader(store).refresh()
    filed_at_s = bench.seconds + 1_000_000.0
    young = would_collect(store, Retention(), now_unix_s=filed_at_s)
    old = would_collect(store, Retention(), now_unix_s=filed_at_s + GRACE_S)
    assert len(young.log) < len(old.log)
    assert collect(store, Retention(), holder="gc", nonce="gc", now_unix_s=filed_at_s + GRACE_S).log == old.log
    after = LogReader(store).refresh()
    assert list(after.commits) == list(before.commits)
    assert_exactly_once(store, bench.source, generation=3)
    bench.source.texts["more"] = ["one", "two"]
    bench.run(4)
    assert_exactly_once(store, bench.source, generation=4)


def test_a_segment_that_a_sleeping_writer_may_be_about_to_name_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "FILE_FACTS", 8)
    store = MemoryStore()
    labelled(store, unit_rows=2)
    next_seq = LogReader(store).refresh().next_seq
    about_to_be_named = f"{SEGMENTS}{0:020d}-{next_seq + 1:020d}-1.arrow"
    store.put(about_to_be_named, b"segment")
    assert list(store.list(MANIFESTS))
    assert about_to_be_named not in collect(store, Retention(), holder="gc", nonce="gc", now_unix_s=1e12).log


def test_a_writer_that_was_there_before_is_fenced() -> None:
    store = MemoryStore()
    labelled(store)
    old = LogWriter.open(store, holder="old", classes=CLASSES, nonce="old", now_unix_s=0)
    collected(store)
    old.queue([End(generation=4)])
    with pytest.raises(FencedError, match="gc"):
        old.flush(now_unix_s=0)


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_anywhere_leaves_labels_sound_and_the_rest_for_the_next_time(after: bool) -> None:
    crashes, crashed = 0, True
    while crashed:
        store = MemoryStore()
        labelled(store)
        store.put(LOST, b"12345")
        store.crash_at(crashes, after=after)
        try:
            collected(store, keep_bytes=0)
            crashed = False
        except Crash:
            crashes += 1
        store.revive()
        assert verify(store).sound
        collect(store, Retention(keep_bytes=0), holder="gc", nonce="gc again", now_unix_s=NOW_UNIX_S)
        assert verify(store).sound
        assert verify(store).orphans == 0
        assert LogReader(store).refresh().rows_kept == 20
    assert crashes > 10


RUN = """
name = "mine"
classes = ["ham", "spam"]
[stream]
path = "stream"
[validation]
path = "stream"
[teacher]
use = "memory:load"
[labelling]
keep_bytes = 0
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
    store = LocalStore(found.labels)
    labelled(store)
    store.put(LOST, b"12345")
    return found


def gc(folder: RunFolder, *words: str) -> Any:
    return CliRunner().invoke(app, ["labels", "gc", str(folder.root), *words], catch_exceptions=False)


def test_a_dry_run_lists_what_would_go_and_the_verb_deletes_it(folder: RunFolder) -> None:
    store = LocalStore(folder.labels)
    before = list(store.list(""))
    dry = gc(folder, "--dry-run").stdout
    assert LOST in dry
    assert "would delete" in dry
    assert list(store.list("")) == before
    told = json.loads(gc(folder, "--json").stdout)
    assert told["attempts"] == {LOST: 5}
    assert told["dropped"]
    assert f"would delete {told['objects']} objects, {told['bytes']:,} bytes" in dry
    assert "nothing to delete" in gc(folder).stdout


def test_a_file_that_a_crash_left_half_written_goes_after_a_while(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    labelled(store)
    old, young = (tmp_path / "shards" / "00000001" / f"{TEMPORARY}{name}" for name in ("old", "young"))
    for path, age_s in ((old, GRACE_S + 60), (young, GRACE_S - 60)):
        path.write_bytes(b"1234")
        os.utime(path, (NOW_UNIX_S - age_s, NOW_UNIX_S - age_s))
    assert dict(collected(store).unfinished) == {f"shards/00000001/{TEMPORARY}old": 4}
    assert (old.exists(), young.exists()) == (False, True)


def test_an_option_speaks_louder_than_the_run_file(folder: RunFolder) -> None:
    assert not json.loads(gc(folder, "--dry-run", "--json", "--keep-bytes", "1000000000").stdout)["dropped"]


def test_while_a_generation_is_open_the_policy_waits_and_says_so(folder: RunFolder) -> None:
    write_json(folder.generation(3) / "opening.json", {"generation": 3, "new_rows": 1, "students": {}, "sections": {}})
    told = gc(folder, "--json")
    assert (json.loads(told.stdout)["dropped"], json.loads(told.stdout)["attempts"]) == ({}, {LOST: 5})
    assert "generation 3 is open" in gc(folder).stderr


def test_a_live_run_is_left_alone(folder: RunFolder) -> None:
    with Holder(folder), pytest.raises(FolderBusyError):
        gc(folder)


def test_labels_that_a_live_run_of_another_folder_writes_are_left_alone(folder: RunFolder) -> None:
    origin = read_json(folder.origin_file)
    origin["run"]["labelling"]["store"] = "elsewhere"
    write_json(folder.origin_file, origin)
    store = LocalStore(folder.root / "elsewhere")
    labelled(store)
    store.put(LOST, b"12345")
    term = LogReader(store).refresh().term
    with another_run(store):
        with pytest.raises(LogHeldError, match=OTHER):
            gc(folder)
        assert "would delete" in gc(folder, "--dry-run").stdout, "who only looks disturbs nobody"
    assert LogReader(store).refresh().term == term, "the live run is not fenced"
    assert LOST in store.list("shards/")
    assert "deleted" in gc(folder).stdout
