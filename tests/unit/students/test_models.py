"""Building students: seeds, shapes, options, the user's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.inputs import encode
from pipeline.references import ReferenceNotFoundError
from pipeline.students.models import StudentBuildError, build_student
from tests.kit.students import spec, weights


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = weights(build_student(spec(seed=5)))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = weights(build_student(spec(seed=5)))
    assert torch.equal(torch.get_rng_state(), before), "building one drew from the process's generator"
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, weights(build_student(spec(seed=6))), strict=True))


@pytest.mark.parametrize("options", [{}, {"width2": 6}, {"width2": 6, "stride2": 1, "blocks2": 3}, {"stride": 4, "blocks": 1}])
def test_padding_says_nothing(options: dict[str, int]) -> None:
    """A longer window of zeros after the text changes no logit: a short mail is the same mail in a wider student."""
    narrow = build_student(spec(options={"max_bytes": 32, "width": 8, **options}))
    wide = build_student(spec(options={"max_bytes": 64, "width": 8, **options}))
    wide.module.load_state_dict(narrow.module.state_dict())
    narrow.module.eval()
    wide.module.eval()
    texts = ["hello", "x", "a mail of 30 bytes, more or less"[:20]]
    with torch.no_grad():
        small, large = (s.module(torch.from_numpy(encode(texts, kind="text", width=s.width))) for s in (narrow, wide))
    np.testing.assert_allclose(small.numpy(), large.numpy(), atol=1e-6)


def test_an_empty_text_has_an_answer() -> None:
    student = build_student(spec())
    assert torch.isfinite(student.module(torch.zeros((1, student.width), dtype=torch.uint8))).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"use": "byte_konv"},
            "no student named 'byte_konv'; expected one of byte_conv, columns, mlp, pixels, waveform, or module:callable",
        ),
        ({"options": {"widht": 8}}, "byte_conv says: .*widht"),
        ({"options": {"max_bytes": 33}}, "max_bytes = 33 must be a multiple of the stride, 2"),
        ({"use": "mlp", "options": {"features": 4}}, "`max_bytes`, the width of its text input"),
    ],
)
def test_what_makes_no_student_is_refused_with_what_would(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(StudentBuildError, match=says):
        build_student(spec(**changes))


USERS = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, classes, norm=False, dropout=0.0):
        super().__init__()
        self.max_bytes = 8
        self.layer = nn.Sequential(nn.Linear(8, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Linear(4, classes), nn.Dropout(dropout))

    def forward(self, x):
        return self.layer(x.float())

def halved(classes):
    return Mine(classes).bfloat16()

def nothing(classes):
    return "a student"
"""


def test_a_users_own_module_comes_from_their_folder_and_what_depends_on_workers_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "my_students.py").write_text(USERS)
    mine = replace(spec(use="my_students:Mine", options={}), base=tmp_path)
    assert build_student(mine).width == 8
    assert build_student(mine).warnings == ()
    normed = replace(mine, section=mine.section.model_copy(update={"options": {"norm": True}}))
    (warning,) = build_student(normed).warnings
    assert "normalises over batches (layer.1)" in warning
    for workers, dropout, warns in ((1, 0.1, False), ((1, 4), 0.0, False), ((1, 4), 0.1, True), (2, 0.1, True)):
        several = replace(mine, section=mine.section.model_copy(update={"options": {"dropout": dropout}, "workers": workers}))
        assert [warning[:28] for warning in build_student(several).warnings] == ["student small drops out (lay"] * warns
    halved = replace(mine, section=mine.section.model_copy(update={"use": "my_students:halved"}))
    says = (
        r"small\.use: my_students:halved has weights 'layer\.0\.weight' of torch\.bfloat16; expected torch\.float32; .*precision = \"bf16"
    )
    with pytest.raises(StudentBuildError, match=says):
        build_student(halved)
    with pytest.raises(StudentBuildError, match="my_students:nothing returned a str"):
        build_student(replace(mine, section=mine.section.model_copy(update={"use": "my_students:nothing"})))
    with pytest.raises(ReferenceNotFoundError):
        build_student(replace(mine, section=mine.section.model_copy(update={"use": "my_students:Yours"})))
