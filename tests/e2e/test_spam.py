"""`kdpipe run spam` to the end, as the README shows it: real e-mail, fetched from the registry or the cache."""

from pathlib import Path

import pytest

from tests.kit.runs import committed, kdpipe, read

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


def test_real_mail_goes_from_a_teacher_to_three_devices_with_one_command(tmp_path: Path) -> None:
    done = kdpipe("run", "spam", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "devices confirmed 3 of 3" in done.stdout
    assert "TF-IDF with a linear model is a small teacher" in done.stdout
    folder = tmp_path / "runs" / "spam"
    summary = read(folder / "run.json")
    assert len(set(committed(folder))) == summary["labels"]["rows_planned"] == summary["learning"]["teacher_rows"] > 2000
    assert summary["outcome"]["students"]["small"]["fate"] == "shipped"
    small = summary["test"]["small"]
    assert small["student"]["accuracy"] > 0.9
    assert small["student_minus_control"]["auc"] > 0
    assert small["student"]["of_teacher"]["size_bytes"] < 1 / 50
    assert summary["answers"]["phones"]["same"]
