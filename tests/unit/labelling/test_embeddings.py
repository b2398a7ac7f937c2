"""What the teacher sees is kept beside what it says, where that is wanted: of every row, or nothing is labelled."""

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.labels.embedding import embeddings_of
from pipeline.labels.export import FORMATS, export
from pipeline.labels.log import LogReader
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.shard import read_shard
from pipeline.labels.store import LocalStore, Store
from pipeline.labels.stored import StoredLabels
from pipeline.labels.verify import verify
from pipeline.sources import SourceSpec
from pipeline.teachers.teacher import Answer
from tests.kit.crews import LocalCrew
from tests.kit.labelling import Bench, MemorySource, MemoryTeacher, assert_exactly_once
from tests.kit.stores import MemoryStore
from workers.cli import app
from workers.driver.folder import write_json
from workers.labelling import Demand, Labelling, LabellingOutcome
from workers.labelling.faults import EmbeddingUnusableError

TEXTS = [f"text {number}" for number in range(20)]


def seen_in(text: str, width: int = 3) -> np.ndarray:
    return np.random.default_rng(list(text.encode())).normal(size=width).astype(np.float16)


class Seeing(MemoryTeacher):
    """Sees `width` numbers in a text; in one that says `huge`, some that half precision can't hold."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.width = width

    def answer(self, inputs: pa.Array) -> Answer:
        texts = inputs.to_pylist()
        seen_BD = np.stack([seen_in(text, self.width) for text in texts]).astype(np.float32)
        seen_BD[["huge" in text for text in texts], 0] = 1e6
        return Answer(log_probs_BK=self.log_probs(inputs), embedding_BD=seen_BD)


class InMemory(Bench):
    store: MemoryStore


def bench_of(texts: list[str], *, teacher: MemoryTeacher | None = None, **section: Any) -> InMemory:
    bench = InMemory(MemoryStore(), MemorySource({"a": texts}), **({"embedding": True} | section))
    bench.teacher = teacher or Seeing()
    return bench


def seen(store: Store) -> dict[str, tuple[str, np.ndarray]]:
    """Sample -> its text and its embedding, as the shards that count have them."""
    state, found = LogReader(store).refresh(), dict[str, tuple[str, np.ndarray]]()
    for commit in state.commits:
        table = read_shard(store, state.shard_of(commit)).table
        embedding_ND = embeddings_of(table)
        assert embedding_ND is not None
        found |= zip(table["sample_id"].to_pylist(), zip(table["input"].to_pylist(), embedding_ND, strict=True), strict=True)
    return found


def assert_all_seen(store: Store) -> None:
    for text, embedding in seen(store).values():
        np.testing.assert_array_equal(embedding, seen_in(text))


def first_batch(store: Store, rows: int) -> LabelBatch:
    reader = LabelReader(store, generation=1, batch=rows, seed=1)
    batch = reader.read(reader.start())
    assert isinstance(batch, LabelBatch)
    return batch


def repaired(bench: InMemory, key: str) -> LabellingOutcome:
    return bench.labelling(1).repair(frozenset([key]), progress=lambda _: None, stop=threading.Event())


def test_a_reader_gives_what_the_teacher_saw_in_each_row():
    bench = bench_of(TEXTS)
    bench.run()
    batch = first_batch(bench.store, 20)
    assert batch.embedding_BD is not None
    assert batch.embedding_BD.dtype == np.float32
    np.testing.assert_array_equal(batch.embedding_BD, [seen_in(text) for text in batch.inputs.to_pylist()])
    assert_exactly_once(bench.store, bench.source)


def test_what_nobody_wants_is_not_kept():
    bench = bench_of(TEXTS, embedding=False)
    bench.run()
    assert first_batch(bench.store, 20).embedding_BD is None


def test_rows_that_were_labelled_before_it_was_wanted_have_nan():
    bench = bench_of(TEXTS, embedding=False)
    bench.run()
    bench.section = bench.section.model_copy(update={"embedding": True})
    bench.source.texts["b"] = ["new one", "new two"]
    bench.run(2)
    batch = LabelReader(bench.store, generation=2, batch=22, seed=1)
    ended = batch.read(cursor := batch.start())
    assert isinstance(ended, LabelBatch)
    assert not np.isnan(ended.embedding_BD).any()  # type: ignore[arg-type]
    replay = batch.read(type(cursor)(**(vars(cursor) | {"epoch": 1})))
    assert isinstance(replay, LabelBatch)
    assert replay.embedding_BD is not None
    known_B = [text.startswith("text") for text in replay.inputs.to_pylist()]
    assert np.isnan(replay.embedding_BD).all(axis=1).tolist() == known_B


def test_a_bad_row_takes_no_neighbours_embedding_with_it():
    texts = ["poison", "one", "nan", "two", "unparseable", "huge", "three", "poison too"]
    bench = bench_of(texts, unit_rows=8)
    bench.run()
    assert sorted(text for text, _ in seen(bench.store).values()) == ["one", "three", "two"]
    assert_all_seen(bench.store)
    reasons = {bad.reason for bad in LogReader(bench.store).refresh().quarantined}
    assert any("an embedding with 1e+06; expected numbers within 65504" in reason for reason in reasons)


def test_known_content_brings_its_embedding_bit_for_bit():
    bench = bench_of(["same", "other", "same", "third"], unit_rows=4)
    bench.run()
    bench.source.texts["b"] = ["third", "new one", "same"]
    bench.source.texts["c"] = ["other", "other"]  # nobody is asked about any of them
    bench.teacher.asked.clear()
    assert bench.run(2).rows_reused == 4
    assert bench.teacher.asked in (["new one"], ["other", "new one"], ["new one", "other"])
    assert len(seen(bench.store)) == 9
    assert_all_seen(bench.store)


def test_a_label_without_an_embedding_is_not_known_where_one_is_wanted():
    bench = bench_of(TEXTS, embedding=False)
    bench.run()
    bench.section = bench.section.model_copy(update={"embedding": True})
    bench.source.texts["b"] = TEXTS[:5]
    assert bench.run(2).teacher_calls == 5


def test_a_repair_brings_the_embeddings_back_and_a_forgotten_row_has_zeros():
    bench = bench_of(TEXTS)
    bench.run()
    state = LogReader(bench.store).refresh()
    bad = state.commits[2].shard.key
    texts = read_shard(bench.store, state.commits[2].shard).table["input"].to_pylist()
    bench.store.flip_bit(bad, at=bench.store.size(bad) // 2)  # type: ignore[operator]
    bench.source.texts["a"] = ["unparseable" if text == texts[1] else text for text in TEXTS]
    repaired(bench, bad)
    found = dict(seen(bench.store).values())
    assert found.pop("").tolist() == [0, 0, 0]
    assert verify(bench.store).sound
    assert all((embedding == seen_in(text)).all() for text, embedding in found.items())


def test_a_repair_of_which_no_row_can_be_labelled_has_no_embedding_and_can_be_read():
    bench = bench_of(TEXTS)
    bench.run()
    key = LogReader(bench.store).refresh().commits[0].shard.key
    bench.store.delete(key)
    bench.source.texts["a"] = ["poison"] * len(TEXTS)
    assert repaired(bench, key).rows_forgotten == 4
    batch = first_batch(bench.store, 20)
    assert batch.embedding_BD is not None
    np.testing.assert_array_equal(np.isnan(batch.embedding_BD).all(axis=1), batch.weight_B == 0)


@pytest.mark.parametrize("canary_rows", [0, 4])
def test_a_teacher_that_gives_no_embedding_is_named_and_no_row_is_blamed(canary_rows):
    bench = bench_of(TEXTS, teacher=MemoryTeacher(), canary_rows=canary_rows)
    with pytest.raises(EmbeddingUnusableError, match=r"teacher-1: gave no embedding; expected one .* `labelling.embedding` is true"):
        bench.run()
    state = LogReader(bench.store).refresh()
    assert (state.rows_labelled, state.rows_quarantined) == (0, 0)


def test_a_teacher_whose_embeddings_change_their_width_is_stopped():
    class Growing(Seeing):
        def answer(self, inputs: pa.Array) -> Answer:
            answer = super().answer(inputs)
            self.width += 1
            return answer

    with pytest.raises(EmbeddingUnusableError, match="gave an embedding of 4 numbers; expected 3, as for other rows"):
        bench_of(TEXTS, teacher=Growing()).run()


def test_replicas_whose_embeddings_differ_in_width_are_stopped():
    bench = bench_of([f"text {number}" for number in range(100)], canary_rows=0)
    bench.replicas = {2: Seeing(width=4)}
    with pytest.raises(EmbeddingUnusableError, match=r"expected [34], as for other rows"):
        bench.run()


def test_a_known_embedding_of_another_width_is_refused():
    bench = bench_of(TEXTS)
    bench.run()
    bench.teacher = Seeing(width=4)
    bench.source.texts["b"] = [*TEXTS, *(f"new {number}" for number in range(20))]
    with pytest.raises(EmbeddingUnusableError):
        bench.run(2)


@pytest.mark.parametrize("form", FORMATS)
def test_it_is_exported_and_null_where_there_is_none(tmp_path: Path, form: str):
    bench = bench_of(TEXTS, embedding=False)
    bench.run()
    bench.section = bench.section.model_copy(update={"embedding": True})
    bench.source.texts["b"] = ["new one", "new two"]
    bench.run(2)
    export(bench.store, tmp_path / "out", form=form)
    if form == "parquet":
        table = pq.read_table(tmp_path / "out")
    else:
        table = pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in (tmp_path / "out").glob("*.arrow")])
    for text, embedding in zip(table["input"].to_pylist(), table["embedding"].to_pylist(), strict=True):
        assert embedding == (seen_in(text).tolist() if text.startswith("new") else None)


def test_show_says_how_wide_it_is_and_gives_it_to_scripts(tmp_path: Path):
    write_json(tmp_path / "origin.json", {"base": "", "run": {"labelling": {}}})
    bench = Bench(LocalStore(tmp_path / "labels"), MemorySource({"a": TEXTS}), embedding=True)
    bench.teacher = Seeing()
    bench.run()
    words = ["labels", "show", str(tmp_path), "--rows", "1"]
    assert "embedding of 3 numbers" in CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False).output
    told = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).output)
    assert told["embedding"] == seen_in(told["input"]).tolist() == StoredLabels(bench.store).first(1)[0].embedding


TEACHER = """
import numpy as np
from pipeline.teachers.teacher import Answer
class Sum:
    classes = ["low", "high"]
    fingerprint = "sum"
    def log_probs(self, inputs):
        numbers = np.stack(inputs.to_numpy(zero_copy_only=False))
        total = numbers.sum(axis=1)
        log_probs = np.stack([-np.logaddexp(0, total), -np.logaddexp(0, -total)], axis=1).astype(np.float32)
        return Answer(log_probs_BK=log_probs, embedding_BD=2 * numbers)
def load():
    return Sum()
"""


def test_an_answer_of_the_users_own_code_reaches_a_student_whole(tmp_path: Path):
    (tmp_path / "embedding_teacher.py").write_text(TEACHER)
    chance = np.random.default_rng(1)
    rows = [json.dumps({"x": chance.normal(size=4).tolist()}) for _ in range(60)]
    (tmp_path / "samples.jsonl").write_text("\n".join(rows))
    labelling = Labelling(
        store_url=str(tmp_path / "labels"),
        source=SourceSpec(section=SourceSection(path="samples.jsonl", input="x", kind="floats"), base=tmp_path),
        teacher=TeacherSection(use="embedding_teacher:load"),
        classes=("high", "low"),
        base=tmp_path,
        section=LabellingSection(unit_rows=8, window_rows=16, embedding=True),
        seed=1,
        generation=1,
        holder="the test",
        open_crew=LocalCrew,
    )
    labelling.plan()
    assert labelling.run(demand=Demand, progress=lambda now: None, stop=threading.Event()).ended
    batch = first_batch(LocalStore(tmp_path / "labels"), 8)
    assert batch.embedding_BD is not None
    np.testing.assert_allclose(batch.embedding_BD, 2 * np.stack(batch.inputs.to_numpy(zero_copy_only=False)), rtol=1e-3, atol=1e-6)


def test_its_error_survives_pickling():
    error = EmbeddingUnusableError("t", "no embedding", "one")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
