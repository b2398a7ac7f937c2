"""`kdpipe report`: reads a run's folder as it is, writes one file, changes nothing else."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.errors import ConfigError
from pipeline.labels.log import LogReader
from pipeline.labels.store import LocalStore
from tests.kit.labelling import Bench, MemorySource
from tests.kit.reports import figures_on_test, trained, verdict
from workers.cli import app
from workers.driver.folder import RunFolder, read_json, write_json
from workers.driver.records import student_files

CLASSES = ("ham", "spam")


def report(folder: RunFolder, out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["report", str(folder.root), "-o", str(out), *words])


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    """A run that was started and did nothing yet."""
    folder = RunFolder(tmp_path / "run")
    run = {"name": "digits", "labelling": {}, "classes": list(CLASSES), "teacher": {"use": "sklearn"}}
    write_json(folder.origin_file, {"base": str(tmp_path), "name": "here/run.toml", "run": run})
    write_json(folder.status_file, {"stage": "prepare", "error": ""})
    return folder


@pytest.fixture
def over(begun: RunFolder) -> RunFolder:
    """The same with one generation that is closed and one that trains."""
    Bench(LocalStore(begun.labels), MemorySource({"a": [f"text {number}" for number in range(40)]})).run()
    for generation in (1, 2):
        write_json(begun.generation(generation) / "opening.json", {"students": {"small": "x", "wide": "y"}})
    for name in ("small", "wide"):
        files = student_files(begun, 1, name)
        write_json(files.trained, {**trained(), "name": name, "teacher": "t"})
        write_json(files.verdict, verdict(name, CLASSES))
        write_json(files.test, figures_on_test(CLASSES))
    fates = {name: {"fate": "shipped", "says": "phones: 3 of 3 confirmed"} for name in ("small", "wide")}
    write_json(begun.generation(1) / "outcome.json", {"students": fates})
    write_json(begun.status_file, {"stage": "generation 2: label and train", "error": ""})
    return begun


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_run_that_did_nothing_yet_has_a_report_that_says_so(begun: RunFolder, tmp_path: Path) -> None:
    done = report(begun, tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    assert "Nothing is labelled yet. The run was killed at “prepare”" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "No student is judged yet." in page
    assert "<title>digits · kdpipe report</title>" in page


def test_a_run_half_way_shows_what_is_over_and_says_what_is_open(over: RunFolder, tmp_path: Path) -> None:
    before = contents(over.root)
    done = report(over, tmp_path / "report.html", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    page = Path(told["report"]).read_text()
    assert told["bytes"] == len(page.encode())
    assert "labelled 40 of 40 samples for 2 students: small, wide" in told["says"][0]
    assert told["says"][1] == "small (generation 2): its generation is open; in training or waiting for it."
    assert "small, generation 1" in page
    assert contents(over.root) == before, "the run's folder is as it was"
    assert report(over, tmp_path / "report.html").exit_code == 0, "what is there is replaced"


def test_a_document_of_another_version_is_named_and_left_out(over: RunFolder, tmp_path: Path) -> None:
    files = student_files(over, 1, "small")
    write_json(files.test, {**figures_on_test(CLASSES), "version": 9})
    newer = verdict("small", CLASSES)
    write_json(files.verdict, {**newer, "report": {**newer["report"], "version": 7}})
    done = report(over, tmp_path / "report.html")
    assert "small of generation 1, its test: version 9; this kdpipe reads 1" in done.stdout
    assert "small of generation 1, its verdict: version 7; this kdpipe reads 1" in done.stdout
    assert "wide, generation 1" in (tmp_path / "report.html").read_text()


def test_bad_labels_are_named_and_the_rest_is_shown(over: RunFolder, tmp_path: Path) -> None:
    store = LocalStore(over.labels)
    state = LogReader(store).refresh()
    bad = state.shard_of(state.commits[0]).key
    (over.labels / bad).write_bytes(b"rot")
    done = report(over, tmp_path / "report.html")
    assert done.exit_code == 0
    assert bad in done.stdout
    assert "1 shard could not be read and is left out" in (tmp_path / "report.html").read_text()


def test_a_folder_without_a_run_is_refused_and_nothing_written(tmp_path: Path) -> None:
    done = report(RunFolder(tmp_path), tmp_path / "report.html")
    assert "no run was started here" in str(done.exception)
    assert not (tmp_path / "report.html").exists()


def test_a_place_where_no_file_can_be_is_refused_before_anything_is_read(over: RunFolder, tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "report.html", tmp_path):
        done = report(over, place)
        assert isinstance(done.exception, ConfigError)
        assert "expected a file in a folder that is there" in str(done.exception)


def test_open_shows_it_in_the_browser_or_says_that_there_is_none(over: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def no_browser(address: str) -> bool:
        shown.append(address)
        return False

    monkeypatch.setattr("webbrowser.open", no_browser)
    done = report(over, tmp_path / "report.html", "--open")
    assert shown == [(tmp_path / "report.html").as_uri()]
    assert "no browser was found here" in done.stderr


def test_a_run_whose_labels_all_rotted_still_has_its_report_with_the_bad_shards(over: RunFolder, tmp_path: Path) -> None:
    shards = [path for path in (over.labels / "shards").rglob("*") if path.is_file()]
    for shard in shards:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 255
        shard.chmod(0o644)
        shard.write_bytes(data)
    done = report(over, tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text()
    assert f"No label counts. {len(shards)} shard" in page
    assert all(shard.name in page for shard in shards)


def test_a_verdict_is_shown_with_the_classes_it_was_made_for_whatever_the_run_file_says_now(over: RunFolder, tmp_path: Path) -> None:
    opening = over.generation(1) / "opening.json"
    origin = read_json(over.origin_file)
    origin["run"]["classes"] = ["eggs"]
    write_json(over.origin_file, origin)
    assert report(over, tmp_path / "unnamed.html").exit_code == 0
    assert "does not say over which" in (tmp_path / "unnamed.html").read_text()
    write_json(opening, {**read_json(opening), "classes": {"small": CLASSES, "wide": CLASSES[::-1]}})
    assert report(over, tmp_path / "named.html").exit_code == 0
    named = (tmp_path / "named.html").read_text()
    assert "ham taken for spam" in named
    assert "eggs" not in named
