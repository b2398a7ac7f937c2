"""The driver's own numbers: totals over all labelling runs of a driver, and the log's from the first scrape."""

import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import RunFile
from pipeline.labels.store import open_store
from tests.kit.labelling import CLASSES, Bench, MemorySource
from workers.driver.folder import RunFolder, read_json
from workers.driver.learning import gauges
from workers.driver.metrics import RunMetrics
from workers.labelling import LabellingProgress

NOTHING = LabellingProgress(
    rows_planned=0,
    rows_committed=0,
    rows_quarantined=0,
    generation_rows=0,
    rows_per_s=0.0,
    teacher_calls=0,
    rows_reused=0,
    teacher_s=0.0,
    actors=1,
    windows=0,
    lead_rows=None,
    first_commit_unix_s=None,
    last_commit_unix_s=None,
)


def metrics_of_a_run() -> RunMetrics:
    tree = {
        "name": "mine",
        "classes": list(CLASSES),
        "stream": {"path": "mail.jsonl"},
        "validation": {"path": "validation.jsonl"},
        "teacher": {"use": "mine:teacher"},
        "students": {"small": {}},
        "fleet": {"populations": {"desk": {"student": "small"}}},
    }
    return RunMetrics(RunFile.model_validate(tree))


def asked(metrics: RunMetrics) -> tuple[float, float]:
    registry = metrics._server.registry
    rows, seconds = (registry.get_sample_value(f"kdpipe_teacher_{what}_total") for what in ("rows", "seconds"))
    assert rows is not None
    assert seconds is not None
    return rows, seconds


def tell(metrics: RunMetrics, rows: int, *, first_commit_unix_s: float | None) -> None:
    told = vars(NOTHING) | {"teacher_calls": rows, "teacher_s": rows / 10, "first_commit_unix_s": first_commit_unix_s}
    metrics.tell(LabellingProgress(**told), {})


@pytest.mark.parametrize("second", [[0, 3], [3], [20]], ids=["seen from its start", "seen late, smaller", "seen late, larger"])
def test_a_later_generations_teachers_are_counted_on_top(second: list[int]) -> None:
    metrics = metrics_of_a_run()
    for rows in (0, 5, 10):
        tell(metrics, rows, first_commit_unix_s=100.0 if rows else None)
    metrics.tell(None, {})
    for rows in second:
        tell(metrics, rows, first_commit_unix_s=200.0 if rows else None)
    assert asked(metrics) == (10 + second[-1], pytest.approx(1 + second[-1] / 10))


@given(runs=st.lists(st.lists(st.integers(0, 1000), min_size=1).map(sorted), max_size=6))
def test_the_sum_is_that_of_all_runs_however_often_each_is_told(runs: list[list[int]]) -> None:
    metrics = metrics_of_a_run()
    for number, told in enumerate(runs):
        for rows in told:
            tell(metrics, rows, first_commit_unix_s=100.0 + number)
            tell(metrics, rows, first_commit_unix_s=100.0 + number)
    assert asked(metrics) == (sum(told[-1] for told in runs), pytest.approx(sum(told[-1] for told in runs) / 10))


def test_the_first_scrape_of_a_restarted_driver_has_what_the_log_holds(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.labels.mkdir()
    texts = [f"mail {number}" for number in range(40)] + ["unparseable"]
    Bench(open_store(str(folder.labels)), MemorySource({"mail": texts}), unit_rows=8).run()
    metrics = metrics_of_a_run()
    metrics.start(folder, labels=str(folder.labels))
    try:
        port = read_json(tmp_path / "metrics.json")["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read(1_000_000).decode()
    finally:
        metrics.close()
    for line in ("planned_total 41.0", "committed_total 40.0", "quarantined_total 1.0"):
        assert f"kdpipe_labels_{line}" in text.splitlines()


def test_a_run_without_a_log_starts_at_nothing_and_makes_none(tmp_path: Path) -> None:
    metrics = metrics_of_a_run()
    metrics.start(RunFolder(tmp_path), labels=str(tmp_path / "labels"))
    metrics.close()
    assert list(tmp_path.iterdir()) == []


def test_the_rate_of_labels_is_told_while_they_are_made_and_as_what_it_is() -> None:
    made = replace(NOTHING, rows_planned=100, rows_committed=40, rows_per_s=12.0, rows_reused=0, says="")
    assert gauges(made, {})[0].says == "12/s lately"
    assert gauges(replace(made, rows_per_s=0.0, says="teachers load"), {})[0].says == "teachers load"
    assert gauges(replace(made, rows_committed=100, rows_reused=7), {})[0].says == "7 were known", "nothing is made any more"
