"""What labels cost, by the log, and what students would have asked for without them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.labels.cost import Training, labels_cost
from pipeline.labels.log import LogReader
from pipeline.labels.state import LogState
from pipeline.labels.store import LocalStore, Store
from pipeline.students.checkpoint import Trained, save_trained
from tests.kit.labelling import Bench, MemorySource
from tests.kit.stores import MemoryStore
from workers.cli import app
from workers.driver.folder import RunFolder, write_json
from workers.driver.records import student_files


def labelled(store: Store) -> Store:
    """50 labels in generation 1, 20 in generation 2."""
    bench = Bench(store, MemorySource({"a": [f"a {number}" for number in range(50)]}))
    bench.run(1)
    bench.source.texts["b"] = [f"b {number}" for number in range(20)]
    bench.run(2)
    return store


def training(**other: object) -> Training:
    return Training(**({"student": "small", "generation": 1, "teacher": "teacher-1", "new_rows": 50, "rows": 500} | other))  # type: ignore[arg-type]


def test_generations_and_teachers_each_add_up_to_the_whole() -> None:
    found = labels_cost(LogReader(labelled(MemoryStore())).refresh())
    assert [(spent.of, spent.rows) for spent in found.generations] == [("generation 1", 50), ("generation 2", 20)]
    for parts in (found.generations, found.teachers):
        assert sum(spent.rows for spent in parts) == found.rows == 70
        assert sum(spent.teacher_s for spent in parts) == pytest.approx(found.teacher_s)


def test_a_student_would_have_asked_for_what_it_read_at_the_teachers_mean() -> None:
    found = labels_cost(LogReader(labelled(MemoryStore())).refresh(), [training(), training(student="big", new_rows=0, rows=70)])
    small, big = found.students
    a_label_s = found.teacher_s / 70
    assert small.once_s == pytest.approx(50 * a_label_s)
    assert small.each_time_s == pytest.approx(500 * a_label_s)
    assert (big.once_s, big.each_time_s) == (0, pytest.approx(found.teacher_s))


def test_labels_of_mixed_teachers_go_by_the_mean_of_all() -> None:
    state = LogReader(labelled(MemoryStore())).refresh()
    (asked,) = labels_cost(state, [training(teacher="teacher-1+teacher-2", rows=7)]).students
    assert asked.each_time_s == pytest.approx(7 * labels_cost(state).teacher_s / 70)


def test_an_empty_log_cost_nothing() -> None:
    found = labels_cost(LogState(), [training()])
    assert (found.rows, found.teacher_s, found.generations, found.teachers) == (0, 0, (), ())
    assert found.students[0].each_time_s == 0


def test_the_verb_finds_every_training_that_is_over(tmp_path: Path) -> None:
    write_json(tmp_path / "origin.json", {"base": "", "run": {"labelling": {}}})
    labelled(LocalStore(tmp_path / "labels"))
    folder = RunFolder(tmp_path)
    empty = CliRunner().invoke(app, ["labels", "cost", str(tmp_path)], catch_exceptions=False)
    assert "70 labels" in empty.output
    assert "no student's training is over yet" in empty.output
    facts = {"spec": "", "steps": 10, "seconds": 1.0, "epochs": 3, "skipped_steps": 0, "history": (), "parameters": 1, "warm": False}
    times = {"first_step_unix_s": 0.0, "last_step_unix_s": 0.0, "warnings": (), "weights_sha256": "", "teacher": "teacher-1"}
    for generation, name, rows in ((1, "small", 500), (2, "small", 20), (2, "big", 180)):
        write_json(folder.generation(generation) / "opening.json", {})
        out = student_files(folder, generation, name).weights
        out.parent.mkdir(parents=True)
        save_trained(out, Trained(name=name, live_rows=20, rows=rows, **facts, **times))  # type: ignore[arg-type]
    told = CliRunner().invoke(app, ["labels", "cost", str(tmp_path)], catch_exceptions=False).output
    assert [line.partition("student ")[2] for line in told.splitlines() if "  student " in line] == [
        "small, generation 1",
        "big, generation 2",
        "small, generation 2",
    ]
    assert "700 labels read, 10.0 for each that is there" in told
    as_json = CliRunner().invoke(app, ["labels", "cost", str(tmp_path), "--json"], catch_exceptions=False).output
    assert [each["training"]["rows"] for each in json.loads(as_json)["students"]] == [500, 180, 20]


def test_known_content_is_no_cost_and_saves_what_asking_would_have_taken() -> None:
    bench = Bench(store := MemoryStore(), MemorySource({"a": [f"a {number}" for number in range(40)]}))
    bench.run(1)
    bench.source.texts["b"] = [f"a {number}" for number in range(30)] + [f"b {number}" for number in range(10)]
    bench.run(2)
    found = labels_cost(LogReader(store).refresh(), [training(new_rows=40)])
    assert (found.rows, found.rows_reused) == (80, 30)
    assert [spent.rows_reused for spent in found.generations] == [0, 30]
    assert found.saved_s == pytest.approx(30 * found.teacher_s / 50)
    assert found.students[0].once_s == pytest.approx(40 * found.teacher_s / 50)
