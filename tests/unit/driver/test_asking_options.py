"""What the run file's `[fleet.ask]` becomes: options that the orchestrator and the devices take, and nothing where it is off."""

from pathlib import Path

import pytest

from pipeline.config import AskSection
from pipeline.errors import ConfigError
from workers.driver.fleet import asking_options, teacher_options
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


def test_a_teacher_that_is_nowhere_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"--teacher: found no nowhere\.toml; expected a run file"):
        orchestrator._settings(orchestrator._parse([*NEEDED, "--teacher", "nowhere.toml"]))
