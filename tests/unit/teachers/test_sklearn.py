"""The scikit-learn teacher: what it answers, and files that must not be loaded."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sklearn
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pipeline.config import TeacherSection
from pipeline.teachers import TeacherClassesError, load_teacher
from pipeline.teachers import sklearn as sklearn_teacher
from pipeline.teachers.inputs import RaggedInputsError
from pipeline.teachers.sklearn import save_sklearn
from pipeline.teachers.teacher import TeacherLoadError
from tests.kit.teachers import write_text_teacher

SECTION = TeacherSection(use="sklearn", path="teacher")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_text_teacher(tmp_path / "teacher")
    return tmp_path


def test_columns_follow_the_run_files_order_of_classes(base: Path) -> None:
    inputs = pa.array(["free money offer", "kernel patch"])
    one = load_teacher(SECTION, classes=("ham", "spam"), base=base)
    other = load_teacher(SECTION, classes=("spam", "ham"), base=base)
    log_probs_BK = one.log_probs(inputs)
    assert log_probs_BK.dtype == np.float32
    assert log_probs_BK[0, 1] > log_probs_BK[0, 0]
    assert log_probs_BK[1, 0] > log_probs_BK[1, 1]
    np.testing.assert_allclose(np.exp(log_probs_BK).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(other.log_probs(inputs), log_probs_BK[:, ::-1])
    assert one.fingerprint == other.fingerprint


def test_an_empty_batch_is_an_empty_answer(base: Path) -> None:
    assert load_teacher(SECTION, classes=("ham", "spam"), base=base).log_probs(pa.array([], pa.string())).shape == (0, 2)


@pytest.mark.parametrize("classes", [("ham", "spam", "news"), ("ham", "junk"), ("a",)])
def test_other_classes_than_the_run_files_are_refused(classes: tuple[str, ...], base: Path) -> None:
    with pytest.raises(TeacherClassesError, match=r"knows 2 classes \(ham, spam\); expected the") as caught:
        load_teacher(SECTION, classes=classes, base=base)
    assert caught.value.exit_code == 5
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_numbers_go_in_as_a_matrix_and_ragged_rows_are_refused(tmp_path: Path) -> None:
    points = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.2], [1.0, 0.8]])
    save_sklearn(tmp_path / "teacher", LogisticRegression(C=100).fit(points, [0, 7, 0, 7]), kind="floats")
    teacher = load_teacher(SECTION, classes=("7", "0"), base=tmp_path)
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), 2)):
        assert teacher.log_probs(pa.array([[0.9, 0.9], [0.1, 0.0]], kind)).argmax(axis=1).tolist() == [0, 1]
    sliced = pa.array([[5.0], [0.9, 0.9], [0.1, 0.0]], pa.list_(pa.float32())).slice(1)
    assert teacher.log_probs(sliced).argmax(axis=1).tolist() == [0, 1]
    with pytest.raises(RaggedInputsError, match="inputs of 1, 2 numbers"):
        teacher.log_probs(pa.array([[0.9, 0.9], [0.1]], pa.list_(pa.float32())))


def test_a_file_with_a_type_that_is_not_on_the_list_is_refused_before_anything_of_it_is_built(tmp_path: Path) -> None:
    """A transformer may hold any function; here one that would end the process."""
    model = make_pipeline(FunctionTransformer(os.abort), LogisticRegression())
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model.skops").write_bytes(skops.io.dumps(model))
    (tmp_path / "teacher" / "teacher.json").write_text('{"version": 1, "kind": "text"}')
    with pytest.raises(TeacherLoadError, match=r"holds .*abort.*teacher.options.trusted"):
        load_teacher(SECTION, classes=("ham", "spam"), base=tmp_path)


def test_a_pickle_is_never_loaded(base: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.abort, ()

    (base / "teacher" / "model.skops").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TeacherLoadError, match=r"does not load \(BadZipFile"):
        load_teacher(SECTION, classes=("ham", "spam"), base=base)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_damaged_file_is_named(keep: int, base: Path) -> None:
    path = base / "teacher" / "model.skops"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TeacherLoadError, match=r"model\.skops: does not load"):
        load_teacher(SECTION, classes=("ham", "spam"), base=base)


def test_a_file_that_unpacks_to_too_much_is_refused_unread(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"{}")
        archive.writestr("big.npy", b"\0" * 2**20)
    (base / "teacher" / "model.skops").write_bytes(packed.getvalue())
    monkeypatch.setattr(sklearn_teacher, "MAX_UNPACKED_BYTES", 2**19)
    with pytest.raises(TeacherLoadError, match="unpacks to 1048578 bytes"):
        load_teacher(SECTION, classes=("ham", "spam"), base=base)


@pytest.mark.parametrize("description", ['{"version": 2, "kind": "text"}', '{"version": 1, "kind": "sound"}', "[]", "{", "[" * 50_000])
def test_a_description_of_another_version_or_of_nothing_is_refused(description: str, base: Path) -> None:
    (base / "teacher" / "teacher.json").write_text(description)
    with pytest.raises(TeacherLoadError, match=r"teacher.json"):
        load_teacher(SECTION, classes=("ham", "spam"), base=base)


def test_a_missing_file_says_what_is_there(base: Path) -> None:
    (base / "teacher" / "model.skops").unlink()
    with pytest.raises(TeacherLoadError, match=r"model.skops: missing \(there: teacher.json\)"):
        load_teacher(SECTION, classes=("ham", "spam"), base=base)
    with pytest.raises(TeacherLoadError, match="no such folder"):
        load_teacher(TeacherSection(use="sklearn", path="nowhere"), classes=("ham", "spam"), base=base)
    with pytest.raises(TeacherLoadError, match="no `path`"):
        load_teacher(TeacherSection(use="sklearn"), classes=("ham", "spam"), base=base)


def test_options_are_checked(base: Path) -> None:
    for options, says in (({"trust": []}, "unknown option 'trust'"), ({"trusted": "os.abort"}, "a list of type names")):
        with pytest.raises(TeacherLoadError, match=says):
            load_teacher(TeacherSection(use="sklearn", path="teacher", options=options), classes=("ham", "spam"), base=base)


def test_the_fingerprint_follows_the_model_the_description_and_the_libraries(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint() -> str:
        return load_teacher(SECTION, classes=("ham", "spam"), base=base).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    with monkeypatch.context() as patched:
        patched.setattr(sklearn, "__version__", "99.0")
        assert fingerprint() != before
    write_text_teacher(base / "teacher")
    description = base / "teacher" / "teacher.json"
    description.write_text(description.read_text().replace('"kind": "text"', '"kind": "text", "note": 1'))
    assert fingerprint() != before
