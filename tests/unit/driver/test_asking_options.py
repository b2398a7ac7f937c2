"""What the run file's `[fleet.ask]` becomes: options that the orchestrator and the devices take, and nothing where it is off."""

from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pipeline.config import AskSection
from pipeline.errors import ConfigError
from workers.driver.fleet import asking_options, teacher_options
from workers.edge.allowance import AskOptions
from workers.edge.cli import app
from workers.orchestrator import __main__ as orchestrator

NEEDED = ["--dir", "d", "--repository", "r", "--keys", "k"]


def test_unless_the_operator_says_so_no_device_asks_and_no_teacher_is_started(tmp_path: Path) -> None:
    assert asking_options(AskSection()) == []
    assert teacher_options(AskSection(), tmp_path) == []
    assert orchestrator._settings(orchestrator._parse(NEEDED)).open_teacher is None


def test_the_orchestrator_takes_what_the_run_file_says(tmp_path: Path) -> None:
    options = orchestrator._parse([*NEEDED, *teacher_options(AskSection(teacher=True, all_per_s=7.5), tmp_path)])
    settings = orchestrator._settings(options)
    assert settings.open_teacher is not None
    assert settings.limits.asks_per_s == 7.5


def test_a_device_takes_what_the_run_file_says(tmp_path: Path) -> None:
    ask = AskSection(teacher=True, below=0.5, share=0.25, per_hour=7, wait_ms=20.0)
    group: Any = get_command(app)
    taken = group.commands["run"].make_context("run", ["--dir", str(tmp_path), *asking_options(ask)]).params
    options = AskOptions(below=taken["ask_below"], share=taken["ask_share"], per_hour=taken["asks_per_hour"], wait_ms=taken["ask_wait_ms"])
    assert options == AskOptions(below=0.5, share=0.25, per_hour=7, wait_ms=20.0)


def test_a_teacher_that_is_nowhere_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"--teacher: found no nowhere\.toml; expected a run file"):
        orchestrator._settings(orchestrator._parse([*NEEDED, "--teacher", "nowhere.toml"]))
