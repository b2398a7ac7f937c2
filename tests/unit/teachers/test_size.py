"""A teacher's size: what loading it reads, and nothing else."""

from pathlib import Path

import pytest

from pipeline.config import TeacherSection
from pipeline.teachers.size import teacher_bytes


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name, size in {
        "folder/model.skops": 100,
        "folder/teacher.json": 10,
        "folder/metrics.json": 7,
        "one.onnx": 40,
        "two.onnx": 5,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "two.onnx.data").write_bytes(b"x" * 1000)
    return tmp_path


@pytest.mark.parametrize(
    ("section", "size"),
    [
        ({"use": "sklearn", "path": "folder"}, 110),
        ({"use": "transformers", "path": "folder"}, 117),
        ({"use": "onnx", "path": "one.onnx"}, 40),
        ({"use": "onnx", "path": "two.onnx"}, 1005),
        ({"use": "mine:teacher", "path": "one.onnx"}, 40),
        ({"use": "mine:teacher"}, None),
        ({"use": "onnx", "path": "gone.onnx"}, None),
        ({"use": "ensemble", "members": [{"use": "onnx", "path": "one.onnx"}, {"use": "sklearn", "path": "folder"}]}, 150),
        ({"use": "ensemble", "members": [{"use": "onnx", "path": "one.onnx"}, {"use": "mine:teacher"}]}, None),
    ],
)
def test_a_teachers_size_is_that_of_the_files_it_is_loaded_from(section: dict[str, object], size: int | None, base: Path) -> None:
    assert teacher_bytes(TeacherSection.model_validate(section), base=base) == size
