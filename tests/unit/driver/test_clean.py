"""`kdpipe clean` removes what a run made, and nothing else."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, FolderBusyError
from pipeline.labels.holder import LogHeldError
from pipeline.labels.store import open_store
from tests.kit.holders import OTHER, another_run
from workers.commands.clean import clean
from workers.driver.folder import Holder, RunFolder, write_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_json(tmp_path / "origin.json", {"base": str(tmp_path), "run": {"labelling": {}}})
    for name in ("labels/log", "data", "devices/device-1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "mine.csv").write_text("text\nhello\n")
    return tmp_path


def test_data_that_no_recipe_made_stays(run: Path) -> None:
    clean(run, labels=False, yes=True)
    assert sorted(path.name for path in run.iterdir()) == ["data"]
    assert (run / "data" / "mine.csv").exists()


def test_a_folder_that_a_recipe_filled_goes_as_a_whole(run: Path) -> None:
    (run / "data" / "prepared.json").write_text("{}")
    clean(run, labels=False, yes=True)
    assert not run.exists()


def test_only_the_labels_go_if_only_they_are_asked_for(run: Path) -> None:
    clean(run, labels=True, yes=True)
    assert not (run / "labels").exists()
    assert (run / "devices" / "device-1").exists()


def test_labels_that_are_kept_elsewhere_go_too_and_nothing_beside_them(run: Path) -> None:
    write_json(run / "origin.json", {"base": str(run), "run": {"labelling": {"store": "elsewhere"}}})
    store = open_store(str(run / "elsewhere"))
    for key in ("log/1", "shards/1", "known/tables/1", "notes.txt"):
        store.put(key, b"")
    clean(run, labels=True, yes=True)
    assert list(store.list("")) == ["notes.txt"]


def test_a_live_run_is_never_cleaned(run: Path) -> None:
    with Holder(RunFolder(run)), pytest.raises(FolderBusyError):
        clean(run, labels=False, yes=True)
    assert (run / "labels").exists()


def test_labels_that_a_live_run_of_another_folder_writes_are_never_cleaned(run: Path) -> None:
    write_json(run / "origin.json", {"base": str(run), "run": {"labelling": {"store": "elsewhere"}}})
    store = open_store(str(run / "elsewhere"))
    store.put("shards/1", b"")
    with another_run(store), pytest.raises(LogHeldError, match=OTHER):
        clean(run, labels=False, yes=True)
    assert list(store.list("shards/")) == ["shards/1"]
    assert (run / "devices" / "device-1").exists()


def test_a_folder_without_a_run_is_never_cleaned(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with pytest.raises(ConfigError):
        clean(tmp_path, labels=False, yes=True)
    assert (tmp_path / "labels").exists()
