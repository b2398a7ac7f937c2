"""A user's own teacher: an object or a plain function, and what it may not answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import TeacherSection
from pipeline.teachers import Teacher, TeacherClassesError, TeacherOutputError, load_teacher
from pipeline.teachers.checked import CheckedTeacher
from pipeline.teachers.teacher import Answer, TeacherLoadError, answer_of, batches_of
from tests.kit.teachers import CountingTeacher

CLASSES = ("ham", "spam")

MODULE = """
import numpy as np

def probabilities(inputs, *, tilt=0.0):
    return [[0.75 - tilt, 0.25 + tilt] if "free" not in text else [0.0, 1.0] for text in inputs]

def matrix(x):
    assert x.dtype == np.float32 and x.ndim == 2
    return np.stack([x[:, 0], 1 - x[:, 0]], axis=1)

class Made:
    classes = ["spam", "ham"]
    def __init__(self, path=None, tilt=0.0): self.path, self.tilt = path, tilt
    def log_probs(self, inputs): return np.log([[0.9, 0.1]] * len(inputs))

class Named(Made):
    fingerprint = "mine-3"

class Seeing(Made):
    def batches(self, inputs): return [range(len(inputs))[::-1]]
    def log_probs(self, inputs):
        from pipeline.teachers.teacher import Answer
        return Answer(log_probs_BK=super().log_probs(inputs), embedding_BD=np.ones((len(inputs), 4)))

def number(): return 5
"""


def load(base: Path, name: str, attribute: str, **section: Any) -> Teacher:
    (base / f"{name}.py").write_text(MODULE)
    return load_teacher(TeacherSection(use=f"{name}:{attribute}", **section), classes=CLASSES, base=base)


def test_a_plain_function_of_texts_is_a_teacher(tmp_path: Path) -> None:
    teacher = load(tmp_path, "own_teacher_a", "probabilities", options={"tilt": 0.05})
    log_probs_BK = teacher.log_probs(pa.array(["hello", "free"]))
    np.testing.assert_allclose(np.exp(log_probs_BK), np.array([[0.7, 0.3], [0, 1]]), rtol=1e-5)
    assert log_probs_BK[1, 0] == -np.inf


def test_a_plain_function_of_numbers_gets_a_matrix(tmp_path: Path) -> None:
    teacher = load(tmp_path, "own_teacher_b", "matrix")
    inputs = pa.array([[0.25, 5.0], [0.5, 6.0]], pa.list_(pa.float32()))
    np.testing.assert_allclose(np.exp(teacher.log_probs(inputs)), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-5)


def test_an_object_answers_in_its_own_order_and_we_in_the_run_files(tmp_path: Path) -> None:
    teacher = load(tmp_path, "own_teacher_c", "Made")
    np.testing.assert_allclose(np.exp(teacher.log_probs(pa.array(["x"]))), [[0.1, 0.9]], rtol=1e-5)


def test_an_object_may_give_an_embedding_and_choose_its_batches(tmp_path: Path) -> None:
    teacher = load(tmp_path, "own_teacher_s", "Seeing")
    inputs = pa.array(["x", "y", "z"])
    assert [batch.tolist() for batch in batches_of(teacher, inputs, 2)] == [[2, 1, 0]]
    embedding_BD = answer_of(teacher, inputs).embedding_BD
    assert embedding_BD is not None
    assert (embedding_BD.shape, embedding_BD.dtype) == ((3, 4), np.float32)
    plain = load(tmp_path, "own_teacher_s", "Made")
    assert [batch.tolist() for batch in batches_of(plain, inputs, 2)] == [[0, 1], [2]]


@pytest.mark.parametrize("liked", [[[0, 1]], [[0, 1, 2], [2]], [[0, 1, 3]], [[-1, 0, 1]], []])
def test_batches_that_miss_or_repeat_a_place_are_refused(liked: Any) -> None:
    raw = Answering([[0.0, -np.inf]] * 3)
    raw.batches = lambda _inputs: liked  # type: ignore[attr-defined]
    with pytest.raises(TeacherOutputError, match="places for 3 inputs; expected each place"):
        CheckedTeacher(raw, name="mine", classes=CLASSES).batches(pa.array(["x", "y", "z"]), 2)


def test_a_fingerprint_is_the_users_or_follows_source_options_and_weights(tmp_path: Path) -> None:
    assert load(tmp_path, "own_teacher_d", "Named").fingerprint == "mine-3"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"1")
    plain = load(tmp_path, "own_teacher_d", "Made").fingerprint
    tilted = load(tmp_path, "own_teacher_d", "Made", options={"tilt": 0.1}).fingerprint
    weighed = load(tmp_path, "own_teacher_d", "Made", path="weights").fingerprint
    (tmp_path / "weights" / "w.bin").write_bytes(b"2")
    other = load(tmp_path, "own_teacher_d", "Made", path="weights").fingerprint
    assert len({plain, tilted, weighed, other}) == 4
    assert load(tmp_path, "own_teacher_d", "Made").fingerprint == plain


def test_something_that_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherLoadError, match="it returned a int; expected an object with `classes` and `log_probs`"):
        load(tmp_path, "own_teacher_e", "number")


class Answering:
    fingerprint = "f"

    def __init__(self, answer: Any, classes: tuple[str, ...] = CLASSES) -> None:
        self.answer, self.classes = answer, classes

    def log_probs(self, inputs: Any) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([[0.0, 1.0, 2.0]], r"float64 of shape \(1, 3\); expected floats of shape \(1, 2\)"),
        ([[0.0, -1.0], [0.0, -1.0]], r"shape \(2, 2\)"),
        ([[0, 1]], "int64"),
        ([[3.0, -3.0]], "row 0 sums to 20.1"),
        ([[0.7, 0.3]], "natural log-probabilities"),
        ([[1e9, 0.0]], "sums to inf"),
        ([[np.inf, 0.0]], "sums to inf"),
    ],
)
def test_an_answer_that_cannot_be_log_probabilities_is_refused(answer: Any, says: str) -> None:
    with pytest.raises(TeacherOutputError, match=says):
        CheckedTeacher(Answering(answer), name="mine", classes=CLASSES).log_probs(pa.array(["x"]))


def test_rows_of_nan_or_of_nothing_pass_to_whoever_quarantines_rows() -> None:
    answer = [[np.nan, np.nan], [-np.inf, -np.inf], [0.0, -np.inf]]
    log_probs_BK = CheckedTeacher(Answering(answer), name="mine", classes=CLASSES).log_probs(pa.array(["x", "y", "z"]))
    np.testing.assert_array_equal(log_probs_BK, np.array(answer, dtype=np.float32))


def test_classes_that_repeat_are_refused() -> None:
    with pytest.raises(TeacherClassesError):
        CheckedTeacher(Answering([], ("ham", "ham")), name="mine", classes=CLASSES)


def test_the_kits_teacher_keeps_the_protocol() -> None:
    teacher = CountingTeacher()
    teacher.poison("bad")
    checked = CheckedTeacher(teacher, name="counting", classes=("spam", "ham"))
    log_probs_BK = checked.log_probs(pa.array(["good", "bad"]))
    assert np.isnan(log_probs_BK[1]).all()
    assert teacher.asked == ["good", "bad"]
    teacher.fail_after(1)
    checked.log_probs(pa.array(["x"]))
    with pytest.raises(RuntimeError, match="told to fail"):
        checked.log_probs(pa.array(["x"]))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"disagreement_B": np.array([-0.1], dtype=np.float32)}, "a disagreement of -0.1 nats"),
        ({"disagreement_B": np.array([[0.1]], dtype=np.float32)}, "disagreement: float32 of shape"),
        ({"embedding_BD": np.array([0.1], dtype=np.float32)}, "embedding: float32 of shape"),
        ({"embedding_BD": np.array([[1]])}, "embedding: int64 of shape"),
    ],
)
def test_what_else_a_teacher_says_is_checked_too(more, problem):
    class Knowing:
        classes, fingerprint = CLASSES, "f"

        def log_probs(self, inputs):
            return Answer(log_probs_BK=np.log(np.full((len(inputs), 2), 0.5, dtype=np.float32)), **more)

    with pytest.raises(TeacherOutputError, match=problem):
        CheckedTeacher(Knowing(), name="mine", classes=CLASSES).answer(pa.array(["x"]))


def test_a_factory_that_raises_is_told_in_one_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "own_teacher_raises.py").write_text("def make():\n    return 1 / 0\n")
    section = TeacherSection(use="own_teacher_raises:make")
    with pytest.raises(TeacherLoadError, match=r"ZeroDivisionError: division by zero \(own_teacher_raises.py line 2\); expected a teacher"):
        load_teacher(section, classes=CLASSES, base=tmp_path)
