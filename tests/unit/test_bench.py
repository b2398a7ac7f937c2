"""`python -m tests.bench NAME --json` ends with one JSON object a line for each comparison."""

import inspect
import json
from pathlib import Path

import pytest

from tests.bench import codecs, spam_quality
from tests.bench.__main__ import known, main
from tests.bench.compare import Comparison, alone, compare
from tests.bench.halves import FolderBoard, wall_s
from workers.board import TrainingProgress, TrainingState

KEYS = ["name", "case", "figure", "unit", "against", "against_figure", "ratio", "n", "spread"]


def test_a_benchmarks_lines_have_the_keys_of_a_comparison(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(codecs, "ROWS", 50)
    monkeypatch.setattr(codecs, "CLASSES", (2, 30))
    assert main(["codecs", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) > 4
    for line in lines:
        assert list(line) == KEYS
        assert line["name"] == "codecs"
        assert (line["against"] is None) == (line["against_figure"] is None)
        assert line["against"] is not None or (line["ratio"], line["spread"]) == (None, None)


def test_a_ratio_is_ours_over_theirs_run_by_run() -> None:
    found = compare(name="x", case="y", unit="s", ours=[1.0, 4.0, 3.0], against="theirs", theirs=[2.0, 2.0, 2.0])
    assert (found.figure, found.against_figure, found.ratio, found.n, found.spread) == (3.0, 2.0, 1.5, 3, (0.5, 2.0))
    assert json.loads(alone(name="x", case="y", unit="s", figure=1.0, n=2).to_json())["ratio"] is None


def test_an_option_that_a_benchmark_has_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["codecs", "--runs", "1"])
    assert "codecs has no --runs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["first_light", "spam_quality"])
def test_benchmarks_of_the_whole_recipe_can_take_fewer_turns(name: str) -> None:
    module = __import__(f"tests.bench.{name}", fromlist=["run"])
    assert name in known()
    assert "runs" in inspect.signature(module.run).parameters


def test_the_student_that_a_benchmark_trains_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def run(student: str | None = None) -> list[Comparison]:
        asked.append(student)
        return []

    monkeypatch.setattr(spam_quality, "run", run)
    assert main(["spam_quality", "--student", "base"]) == main(["spam_quality"]) == 0
    assert asked == ["base", None]


@pytest.mark.parametrize("name", ["overlap", "first_step", "many_students"])
def test_benchmarks_of_both_halves_can_be_small(name: str) -> None:
    assert name in known()
    assert {"rows", "runs"} <= set(inspect.signature(__import__(f"tests.bench.{name}", fromlist=["run"]).run).parameters)


def test_what_a_half_reports_the_other_reads(tmp_path: Path) -> None:
    board = FolderBoard(tmp_path / "board")
    assert board.snapshot() == {}
    told = TrainingProgress(state=TrainingState.WAITING, live_rows=8, loss=0.5, corrupt=("shards/a",))
    assert board.report("small", told)
    assert FolderBoard(tmp_path / "board").snapshot() == {"small": told}
    assert wall_s({"began_s": 1.0, "ended_s": 4.0}, {"began_s": 2.0, "ended_s": 9.0}) == 8.0
