"""docs/your-own.md, followed to the letter, in a folder that has `workers/` and `pipeline/` packages of its own."""

import json
import re
from pathlib import Path

import pytest

from tests.kit.runs import committed, kdpipe, read

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

BAD_ROW = 7
PAGE = Path(__file__).parents[2] / "docs" / "your-own.md"


def blocks() -> dict[str, str]:
    """Code of the page by file name: Python blocks name theirs in the first line."""
    text = PAGE.read_text()
    files = {
        match[1]: match[0] for code in re.findall(r"```python\n(.*?)```", text, re.S) if (match := re.match(r"# (\S+\.py)\n.*", code, re.S))
    }
    (toml,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    return {**files, "run.toml": toml}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, code in blocks().items():
        (folder / name).write_text(code)
    for package in ("workers", "pipeline"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("HIDES = 'nothing'\n")
    (folder / "workers" / "keywords.py").write_text("WORDS = ['free']\n")
    teacher = (folder / "my_teacher.py").read_text()
    (folder / "my_teacher.py").write_text("from workers.keywords import WORDS\n" + teacher.replace('count("free")', "count(WORDS[0])"))
    source = (folder / "my_source.py").read_text()
    (folder / "my_source.py").write_text(source.replace("for row in rows]", f"if row != {BAD_ROW} else None for row in rows]"))
    rows = [json.dumps({"text": f"mail {row}" + " free" * (row % 3)}) for row in range(120)]
    (folder / "validation.jsonl").write_text("\n".join(rows))
    return folder


def test_a_users_teacher_student_and_source_run_beside_packages_named_as_ours(project: Path) -> None:
    done = kdpipe("run", "run.toml", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = project / "runs" / "mine"
    assert len(committed(folder)) == 399
    assert "devices confirmed 1 of 1" in done.stdout
    assert read(folder / "run.json")["devices"]["phones"]["target"] == "releases/tiny-000001.kdpb"


def test_a_row_that_does_not_read_is_quarantined_counted_and_shown_and_the_run_goes_on(project: Path) -> None:
    folder = project / "runs" / "mine"
    labels = read(folder / "run.json")["labels"]
    assert (labels["rows_planned"], labels["rows_committed"], labels["rows_quarantined"]) == (400, 399, 1)
    assert not [sample for sample in committed(folder) if sample.endswith(f":{BAD_ROW}")]
    assert "399 of 400, 1 quarantined" in kdpipe("status", folder, cwd=project).stdout


def test_a_source_without_labels_is_judged_by_agreement_and_says_so(project: Path) -> None:
    verdict = read(project / "runs" / "mine" / "generations" / "000001" / "students" / "tiny" / "verdict.json")
    assert verdict["report"]["basis"] == "agreement with the teacher"
    assert "no labels: judged by agreement with the teacher alone" in verdict["says"]


def test_an_edited_teacher_is_not_mistaken_for_the_old_one(project: Path) -> None:
    (project / "workers" / "keywords.py").write_text("WORDS = ['mail']\n")
    done = kdpipe("run", "run.toml", "--set", "students.tiny.steps=61", cwd=project)
    assert done.returncode == 4
    assert "kdpipe clean" in done.stderr
