"""Single samples as they are stored: what the teacher said, how sure it was, and where they lie."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from pipeline.errors import ConfigError
from pipeline.labels.export import export
from pipeline.labels.log import LogReader
from pipeline.labels.shard import ShardCorruptError
from pipeline.labels.store import LocalStore, Store
from pipeline.labels.stored import NothingLabelledError, StoredLabels
from pipeline.labels.verify import verify
from tests.kit.labelling import CLASSES, Bench, MemorySource, expected_log_probs
from tests.kit.stores import MemoryStore
from workers.cli import app
from workers.commands.labels.show import printable
from workers.driver.folder import write_json

TEXTS = [f"text {number}" for number in range(30)]
CODECS: list[dict[str, Any]] = [{"codec": "dense_fp16"}, {"codec": "top_k", "codec_k": 1}, {"codec": "sampled", "codec_draws": 255}]


def labelled(store: Store, texts: list[str], **section: Any) -> Store:
    Bench(store, MemorySource({"a": texts}), **section).run()
    return store


@pytest.mark.parametrize("section", CODECS, ids=lambda section: section["codec"])
def test_what_is_shown_is_what_the_teacher_said(section: dict[str, Any]) -> None:
    found = StoredLabels(labelled(MemoryStore(), TEXTS, **section)).first(1000)
    assert sorted(sample.input for sample in found) == sorted(TEXTS)
    for sample in found:
        probs = np.exp(expected_log_probs(sample.input))
        assert sample.top[0] == (CLASSES[probs.argmax()], pytest.approx(probs.max(), abs=5e-3))
        assert sum(p for _, p in sample.top) + sample.tail == pytest.approx(1, abs=1e-3)
        assert sample.margin == pytest.approx(abs(probs[0] - probs[1]), abs=1e-6)
        assert (sample.codec, sample.part, sample.weight) == (section["codec"], "a", 1.0)
        assert sample.recorded == (1 if section["codec"] == "top_k" else 2)


def test_the_place_in_the_log_is_the_one_a_student_reads_it_from() -> None:
    store = labelled(MemoryStore(), TEXTS)
    state = LogReader(store).refresh()
    assert len(state.windows) > 1
    for sample in StoredLabels(store).first(1000):
        seal = state.windows[sample.window or 0]
        assert sample.shard in {commit.shard.key for commit in state.commits[seal.first_commit : seal.stop_commit]}


def test_a_row_an_id_and_a_class_are_found() -> None:
    labels = StoredLabels(labelled(MemoryStore(), TEXTS))
    sample = labels.at(7)
    assert labels.called(sample.sample_id) == [sample]
    spam = labels.of_class("spam", 1000)
    assert {s.top[0][0] for s in spam} == {"spam"}
    assert len(spam) + len(labels.of_class("ham", 1000)) == len(TEXTS)


def test_the_least_sure_are_those_of_least_margin_over_all_shards() -> None:
    labels = StoredLabels(labelled(MemoryStore(), TEXTS))
    margins = sorted(sample.margin for sample in labels.first(1000))
    assert [sample.margin for sample in labels.least_sure(7)] == margins[:7]
    assert len(labels.least_sure(1000)) == len(TEXTS)


def test_a_forgotten_sample_shows_its_weight_and_is_no_answer() -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": TEXTS}))
    bench.run()
    key = LogReader(store).refresh().commits[0].shard.key
    store.put(key, b"gone")
    bench.source.texts["a"] = ["poison"] * len(TEXTS)
    bench.labelling().repair(frozenset({key}), progress=lambda _: None, stop=threading.Event())
    labels = StoredLabels(store)
    forgotten = {sample.row for sample in labels.first(1000) if sample.weight == 0}
    assert forgotten
    assert not forgotten & {sample.row for sample in [*labels.least_sure(1000), *labels.of_class("ham", 1000)]}


def test_a_row_without_a_label_says_why() -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": ["text", "poison"]}))
    bench.run()
    bench.source.texts["b"] = ["later"]
    bench.labelling(2).plan()
    labels = StoredLabels(store)
    bad = next(iter(LogReader(store).refresh().quarantined)).start
    with pytest.raises(ConfigError, match="quarantined: the teacher failed: ValueError: the teacher chokes"):
        labels.at(bad)
    with pytest.raises(ConfigError, match="not labelled yet"):
        labels.at(2)
    with pytest.raises(ConfigError, match="expected 0 to 2"):
        labels.at(3)


def test_rows_without_a_label_are_listed_with_their_place_in_the_source(tmp_path: Path) -> None:
    write_json(tmp_path / "origin.json", {"base": "", "run": {"labelling": {}}})
    texts = ["poison" if number in (3, 17) else f"text {number}" for number in range(20)]
    labelled(LocalStore(tmp_path / "labels"), texts)
    told = CliRunner().invoke(app, ["labels", "ls", str(tmp_path), "--quarantined"], catch_exceptions=False).output.splitlines()
    assert sorted(line.partition(" (")[0] for line in told) == ["a row 17", "a row 3"]
    assert all(line.endswith("the teacher failed: ValueError: the teacher chokes") for line in told)
    as_json = CliRunner().invoke(app, ["labels", "ls", str(tmp_path), "--quarantined", "--json"], catch_exceptions=False).output
    assert {json.loads(line)["part_row"] for line in as_json.splitlines()} == {3, 17}


def test_labels_that_were_let_go_are_passed_over_and_said_to_be_gone(tmp_path: Path) -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": TEXTS}), keep_bytes=0)
    bench.run(1)
    for generation, name in ((2, "b"), (3, "c")):
        bench.source.texts[name] = [f"text {name}"]
        bench.run(generation)
    state, labels = LogReader(store).refresh(), StoredLabels(store)
    assert state.rows_kept == 2 == len(labels.first(1000)) == export(store, tmp_path / "out")
    assert (verify(store).sound, verify(store).rows) == (True, 2)
    assert labels.at(30) in labels.first(1000)
    with pytest.raises(ConfigError, match="dropped by the retention policy"):
        labels.at(0)


def test_what_is_not_there_is_named_with_what_is() -> None:
    labels = StoredLabels(labelled(MemoryStore(), TEXTS))
    with pytest.raises(ConfigError, match=r"an id like 'a:\d+'"):
        labels.called("nobody")
    with pytest.raises(ConfigError, match="one of: ham, spam"):
        labels.of_class("eggs", 1)
    with pytest.raises(NothingLabelledError, match="kdpipe run"):
        StoredLabels(MemoryStore())


def test_a_corrupt_shard_is_never_shown() -> None:
    store = labelled(MemoryStore(), TEXTS)
    key = LogReader(store).refresh().commits[0].shard.key
    store.put(key, b"x" + store.get(key)[1:])
    with pytest.raises(ShardCorruptError):
        StoredLabels(store).first(1)


def test_the_first_answers_are_as_many_as_asked_for_and_no_more() -> None:
    labels = StoredLabels(labelled(MemoryStore(), TEXTS))
    assert len(labels.reference(7)) == 7
    assert len(labels.reference(1000)) == len(TEXTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "origin.json", {"base": str(tmp_path), "run": {"labelling": {}}})
    labelled(LocalStore(tmp_path / "labels"), ["\x1b[2J\x1b]0;owned\x07" + "wide 字" * 200, "rtl \u202e line\nbreak"])
    return tmp_path


def shown(folder: Path, *words: str) -> str:
    told = CliRunner().invoke(app, ["labels", "show", str(folder), *words], env={"COLUMNS": "70"}, catch_exceptions=False)
    assert told.exit_code == 0
    return told.output


def test_an_input_cannot_write_to_the_terminal_and_fits_into_it(folder: Path) -> None:
    output = shown(folder)
    assert all(char.isprintable() or char == "\n" for char in output)
    assert "\\x1b[2J" in output
    assert "\\u202e line\\nbreak" in output
    assert max(cell_len(line) for line in output.splitlines()) <= 70


def test_json_lines_have_the_whole_input(folder: Path) -> None:
    lines = [json.loads(line) for line in shown(folder, "--json").splitlines()]
    assert max(len(line["input"]) for line in lines) > 1000
    assert all(line["disagreement"] is None for line in lines)


def test_two_choices_at_once_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--row and --least-sure"):
        shown(folder, "--row", "1", "--least-sure")


def test_a_folder_without_a_run_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run was started here"):
        shown(tmp_path)


def test_what_reads_as_it_should_stays_as_it_is() -> None:
    assert printable("Grüße, 字 😀 'quoted'") == "Grüße, 字 😀 'quoted'"
