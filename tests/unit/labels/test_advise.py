"""`kdpipe labels advise`: before anything is labelled, by a probe; afterwards by labels that are there, if they are whole."""

import json
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.config import LabellingSection
from pipeline.labels.codecs import codec_of
from pipeline.labels.log import LogReader
from pipeline.labels.store import LocalStore
from pipeline.labels.stored import NoReferenceError, NothingLabelledError, StoredLabels
from pipeline.sources.source import SourceMissingError
from tests.kit.labelling import Bench, MemorySource
from tests.kit.stores import MemoryStore
from workers.cli import app
from workers.driver.folder import write_json
from workers.labelling.faults import TeacherFailsError

CLASSES = 40
TEACHER = """
import numpy as np
class Many:
    classes = [f"c{number}" for number in range(40)]
    fingerprint = "many"
    def log_probs(self, inputs):
        texts = inputs.to_pylist()
        if any("poison" in text for text in texts):
            raise ValueError("the teacher chokes")
        logits = np.stack([np.random.default_rng(sum(text.encode())).normal(0, 4, 40) for text in texts])
        logits[["nan" in text for text in texts]] = np.nan
        return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
def load():
    return Many()
"""
RUN = """
name = "mine"
classes = {classes}
stream.path = "stream.jsonl"
validation.path = "stream.jsonl"
teacher = {{ use = "{module}:load", batch_rows = 8 }}
students.tiny.use = "byte_conv"
fleet.populations.phones.student = "tiny"
"""


def run_file(folder: Path, texts: list[str]) -> Path:
    module = f"teacher_{folder.name}"  # an imported module stays
    (folder / f"{module}.py").write_text(TEACHER)
    (folder / "stream.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "run.toml").write_text(RUN.format(classes=json.dumps([f"c{number}" for number in range(CLASSES)]), module=module))
    return folder / "run.toml"


def advised(*words: object) -> Any:
    done = CliRunner().invoke(app, ["labels", "advise", *map(str, words)])
    if done.exception is not None:
        raise done.exception
    return done


def stored(folder: Path, **section: Any) -> Path:
    """The folder of a run with labels of two classes."""
    Bench(LocalStore(folder / "labels"), MemorySource({"a": [f"text {number}" for number in range(30)]}), **section).run()
    write_json(folder / "origin.json", {"base": str(folder), "run": {"labelling": {}}})
    return folder


def test_before_anything_is_labelled_the_teacher_is_asked_and_nothing_is_written(tmp_path: Path) -> None:
    run = run_file(tmp_path, [f"mail {number}" for number in range(60)])
    before = {path.name for path in tmp_path.iterdir()}
    done = advised(run, "--rows", 40, "--budget-bytes", 30)
    assert "on 40 labels" in done.stdout
    assert "probe 0 of 40 rows" in done.stderr, "a slow teacher is seen to be at work"
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == before


def test_what_it_ends_with_is_a_run_file_section_that_chooses_the_codec_it_advised(tmp_path: Path) -> None:
    run = run_file(tmp_path, [f"mail {number}" for number in range(60)])
    lines = advised(run, "--budget-bytes", 40).stdout.partition("in the run file:")[2]
    section = LabellingSection.model_validate(tomllib.loads(lines)["labelling"])
    found = json.loads(advised(run, "--budget-bytes", 40, "--json").stdout)
    assert (codec_of(section, CLASSES).name, found["rows"]) == (found["chosen"]["codec"], 60)
    assert section == LabellingSection.model_validate(found["labelling"])
    assert found["chosen"]["bytes_per_sample"] <= 40
    assert found["chosen"]["kl_mean_nats"] == min(each["kl_mean_nats"] for each in found["measured"] if each["bytes_per_sample"] <= 40)


def test_a_budget_that_no_codec_keeps_is_said_and_no_line_is_advised(tmp_path: Path) -> None:
    done = advised(run_file(tmp_path, ["one mail"]), "--budget-bytes", 1)
    assert done.stdout.splitlines()[-1] == "no codec stays within the budget"


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = [f"mail {number}" for number in range(30)]
    texts[3], texts[20] = "nan", "poison"
    done = advised(run_file(tmp_path, texts), "--json")
    assert json.loads(done.stdout)["rows"] == 21, "one row, and the eight of a batch"
    assert "9 rows without an answer are left out, the last for: ValueError: the teacher chokes" in done.stderr


def test_a_teacher_that_answers_nothing_is_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(TeacherFailsError, match="the teacher chokes"):
        advised(run_file(tmp_path, ["poison"] * 20))


def test_a_stream_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match=r"stream\.jsonl"):
        advised(run_file(tmp_path, []))


def test_dense_labels_that_are_there_are_measured_without_asking(tmp_path: Path) -> None:
    found = json.loads(advised(stored(tmp_path), "--rows", 7, "--json").stdout)
    assert (found["rows"], found["chosen"]["codec"]) == (7, "dense_fp16")


@pytest.mark.parametrize("section", [{"codec": "top_k", "codec_k": 1}, {"codec": "sampled"}], ids=lambda section: section["codec"])
def test_labels_of_a_lossy_codec_are_refused_as_the_truth(tmp_path: Path, section: dict[str, Any]) -> None:
    with pytest.raises(NoReferenceError, match=rf"codec {section['codec']}.*expected dense_fp16.*`kdpipe labels advise RUNFILE`"):
        advised(stored(tmp_path, **section))


def test_dense_labels_before_lossy_ones_are_enough() -> None:
    store = MemoryStore()
    source = MemorySource({"a": [f"text {number}" for number in range(30)]})
    Bench(store, source).run()
    source.texts["b"] = [f"more {number}" for number in range(30)]
    Bench(store, source, codec="top_k", codec_k=1).run(2)
    assert len(StoredLabels(store).reference(1000)) == 30


def test_forgotten_samples_are_no_reference() -> None:
    store = MemoryStore()
    bench = Bench(store, MemorySource({"a": [f"text {number}" for number in range(30)]}))
    bench.run()
    (first, *_) = LogReader(store).refresh().commits
    store.put(first.shard.key, b"gone")
    bench.source.texts["a"] = ["poison"] * 30
    bench.labelling().repair(frozenset({first.shard.key}), progress=lambda _: None, stop=threading.Event())
    found = StoredLabels(store).reference(1000)
    assert len(found) == 30 - first.shard.rows
    assert not np.isclose(found[:, 0], found[:, 1]).any()


def test_where_nothing_is_labelled_that_is_said(tmp_path: Path) -> None:
    write_json(tmp_path / "origin.json", {"base": str(tmp_path), "run": {"labelling": {}}})
    with pytest.raises(NothingLabelledError, match="nothing is labelled yet"):
        advised(tmp_path)
