"""`labelling.store`: a whole run whose labels lie on a real S3 server, and a second that asks the teacher nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.labels.log import LogReader
from pipeline.labels.store import open_store
from tests.kit.runs import kdpipe, read
from tests.kit.s3_server import BUCKET, s3_server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_server(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("server")
def test_a_run_keeps_its_labels_on_s3_and_the_next_one_finds_them(tmp_path: Path) -> None:
    place = f"s3://{BUCKET}/fleet-a/digits"
    command = ("run", "digits", "--set", f"labelling.store={place}")
    first = kdpipe(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr + first.stdout
    folder = tmp_path / "runs" / "digits"
    assert not (folder / "labels").exists()
    state = LogReader(open_store(place)).refresh()
    assert state.rows_labelled == state.rows_planned > 0
    asked = sum(commit.teacher_s for commit in state.commits)
    again = kdpipe(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr + again.stdout
    assert sum(commit.teacher_s for commit in LogReader(open_store(place)).refresh().commits) == asked
    assert read(folder / "run.json")
    verified = kdpipe("labels", "verify", folder, cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr + verified.stdout
    removed = kdpipe("clean", folder, "--labels", "--yes", cwd=tmp_path)
    assert removed.returncode == 0, removed.stderr
    assert list(open_store(place).list("")) == []
