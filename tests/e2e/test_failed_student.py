"""Two students of a run, one of which raises in the middle: the other trains to its end and ships, and the run says what happened."""

import json
import re
from pathlib import Path

import pytest

from tests.kit.runs import committed, kdpipe, read

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

ROWS = 640
RUN = """
name = "mine"
classes = ["ham", "spam"]
stream.path = "stream.jsonl"
validation.path = "validation.jsonl"
teacher.use = "two:Teacher"
labelling = { unit_rows = 16, window_rows = 64, lead_max = 176, unit_rows_max = 16 }
gate.agreement_min = 0.1
students.good = { options = { max_bytes = 64, width = 16 }, batch = 8, steps = 100 }
students.breaks = { use = "two:breaks", batch = 8, steps = 100 }
fleet.populations.phones = { student = "good", devices = 1 }
fleet.soak_s = 0.1
"""
MODULES = """
import numpy as np
import torch


class Teacher:
    classes = ["ham", "spam"]
    fingerprint = "two"

    def log_probs(self, inputs):
        spam = np.array([0.9 if "free" in text else 0.1 for text in inputs.to_pylist()])
        return np.log(np.stack([1 - spam, spam], axis=1)).astype(np.float32)


class Breaks(torch.nn.Module):
    max_bytes = 16

    def __init__(self, classes):
        super().__init__()
        self.head, self.learnt = torch.nn.Linear(16, classes), 0

    def forward(self, inputs):
        if self.training:
            self.learnt += 1
            if self.learnt > 5:
                raise ValueError("no such token: 17")
        return self.head(inputs.float() / 255)


def breaks(classes):
    return Breaks(classes)
"""


def test_the_other_student_ships_and_exit_code_and_summary_say_which_failed_and_why(tmp_path: Path) -> None:
    """The lead is far shorter than the stream: were it measured from the failed student's cursor, labelling would stop for ever."""
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "two.py").write_text(MODULES)
    for name, rows in (("stream", ROWS), ("validation", 120)):
        texts = [json.dumps({"text": f"{name} {row}" + " free" * (row % 2)}) for row in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(texts))
    done = kdpipe("run", "run.toml", cwd=tmp_path)
    assert done.returncode == 6, done.stdout + done.stderr
    assert re.search(r"student breaks: its module raised ValueError: no such token: 17 \(two.py line \d+\) at step 5", done.stderr)
    assert "raise ValueError" in (tmp_path / "runs" / "mine" / "logs" / "driver.log").read_text()
    assert "student breaks failed, the others go on" in done.stdout
    assert len(committed(tmp_path / "runs" / "mine")) == ROWS
    students = read(tmp_path / "runs" / "mine" / "run.json")["outcome"]["students"]
    assert (students["breaks"]["fate"], students["good"]["fate"]) == ("training failed", "shipped")
    assert "no such token: 17" in students["breaks"]["says"]
    trained = read(tmp_path / "runs" / "mine" / "generations" / "000001" / "students" / "good" / "weights.pt.json")
    assert (trained["steps"], trained["live_rows"]) == (100, ROWS)
