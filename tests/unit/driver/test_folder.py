"""The folder of a run: one holder at a time, and the lock ends with its process."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, FolderBusyError
from workers.driver.folder import Holder, RunFolder, holder_of, write_json

HOLD = """
import sys, pathlib
from workers.driver.folder import Holder, RunFolder
with Holder(RunFolder(pathlib.Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_with_the_name_of_the_holder_and_enters_once_it_was_killed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(FolderBusyError, match=f"pid {holder.pid}.*kill -KILL PID"), Holder(folder):
        pass
    assert holder_of(folder) == holder.pid
    holder.kill()
    holder.communicate()
    with Holder(folder):
        assert holder_of(folder) is not None
    assert holder_of(folder) is None


def test_looking_for_the_holder_never_takes_the_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert holder_of(folder) is None
    with Holder(folder):
        for _ in range(3):
            assert holder_of(folder) is not None
    assert holder_of(folder) is None


def test_a_folder_without_a_run_says_how_to_start_one(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("name = 'mine'")
    with pytest.raises(ConfigError, match="kdpipe run"):
        RunFolder.existing(tmp_path)


def test_only_opened_generations_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.generation(2).mkdir(parents=True)
    write_json(folder.generation(1) / "opening.json", {})
    assert folder.generations() == [1]
