"""Validation parts: whose they are, always the same way, and what is missing."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distill.losses import NO_LABEL
from pipeline.sources.source import Part
from pipeline.students.samples import (
    PARTS,
    LabelUnknownError,
    PartUnknownError,
    Samples,
    SamplesMissingError,
    Validation,
    part_of,
    read_samples,
    read_validation,
)
from tests.kit.students import CLASSES, mails


class Rows:
    """A source of rows in memory, in two parts."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = {"first": rows[::2], "second": rows[1::2]}

    def parts(self) -> Sequence[Part]:
        return [Part(identity=name, name=name, rows=len(rows)) for name, rows in self._rows.items()]

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        return pa.RecordBatch.from_pylist([self._rows[identity][row] for row in rows])


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"sample_id": f"s{number}", "input": f"text {number}", "label": "ham", "problem": None} | changes


def test_a_column_of_the_source_says_which_part_a_sample_is_of() -> None:
    rows = [row(number, part=PARTS[number % 3]) for number in range(30)]
    found = read_validation(Rows(rows), classes=CLASSES)
    assert [len(part) for part in (found.fit, found.choose, found.gate)] == [10, 10, 10]
    assert "s0" in found.fit.ids
    assert found.gate.labelled


def test_without_one_a_hash_of_the_id_says_it_the_same_way_every_time() -> None:
    rows = [row(number) for number in range(200)]
    found = read_validation(Rows(rows), classes=CLASSES)
    again = read_validation(Rows(rows[::-1]), classes=CLASSES)
    for name in PARTS:
        assert set(getattr(found, name).ids) == set(getattr(again, name).ids)
        assert all(part_of(sample) == name for sample in getattr(found, name).ids)
    assert len(found.fit) + len(found.choose) + len(found.gate) == 200


@given(sample=st.text())
def test_every_sample_is_of_one_part(sample: str) -> None:
    assert part_of(sample) in PARTS


def test_a_row_that_did_not_parse_is_left_out_and_an_unknown_label_is_refused() -> None:
    rows = [row(0), row(1, input=None, problem="not UTF-8"), row(2, label=None)]
    found = read_samples(Rows(rows), classes=CLASSES)
    assert set(found.ids) == {"s0", "s2"}
    assert not found.labelled
    assert sorted(found.hard_N.tolist()) == [NO_LABEL, 0]
    with pytest.raises(LabelUnknownError, match="sample s5: label 'eggs'; expected one of ham, spam"):
        read_samples(Rows([row(5, label="eggs")]), classes=CLASSES)


def test_a_mistyped_part_is_refused_by_name_and_rows_that_did_not_parse_are_counted() -> None:
    rows = [row(number, part=PARTS[number % 3]) for number in range(9)]
    bad = [row(10, input=None, problem="not UTF-8"), row(11, input=None, part="Gate")]
    found = read_validation(Rows(rows + bad), classes=CLASSES)
    assert found.unparsed == 2
    assert found.left_out() == ["left out: 2 validation samples that did not parse"]
    with pytest.raises(PartUnknownError, match=r"sample s12: part 'Gate'; expected one of fit, choose, gate; correct the column `part`"):
        read_validation(Rows([*rows, row(12, part="Gate")]), classes=CLASSES)


def test_a_part_without_a_sample_is_an_error_that_counts_the_others() -> None:
    with pytest.raises(SamplesMissingError, match=r"no sample in choose \(fit 2, choose 0, gate 1\)"):
        read_validation(Rows([row(0, part="fit"), row(1, part="fit"), row(2, part="gate")]), classes=CLASSES)


def test_a_teachers_impossible_class_is_clamped_as_in_stored_labels() -> None:
    class Certain:
        classes: tuple[str, ...] = CLASSES
        fingerprint = "certain"
        deterministic = True

        def log_probs(self, inputs: Any) -> Any:
            return np.array([[0.0, -np.inf]] * len(inputs), dtype=np.float32)

    answered = mails(5, teacher=False).with_teacher(Certain())
    assert answered.teacher_NK is not None
    assert (answered.teacher_NK == np.array([0, -30], dtype=np.float32)).all()


class Picky:
    """Says NaN of one sample and raises at another."""

    classes: tuple[str, ...] = CLASSES
    fingerprint, deterministic = "picky", True

    def __init__(self, samples: Samples) -> None:
        self._nan, self._raises = samples.inputs[1], samples.inputs[3]

    def log_probs(self, inputs: pa.Array) -> np.ndarray:
        texts = inputs.to_pylist()
        if self._raises in texts:
            raise ValueError("refused")
        return np.array([[np.nan] * 2 if text == self._nan else [-0.1, -2.35] for text in texts], dtype=np.float32)


def test_samples_on_which_the_teacher_fails_are_left_out_and_counted() -> None:
    samples = mails(6, teacher=False)
    asked = samples.with_teacher(Picky(samples))
    assert asked.teacher_NK is not None
    assert np.isnan(asked.teacher_NK).any(axis=1).tolist() == [False, True, False, True, False, False]
    validation = Validation(fit=samples, choose=samples, gate=samples).answered(lambda part: part.with_teacher(Picky(samples)))
    assert [len(part) for part in (validation.fit, validation.choose, validation.gate)] == [4, 4, 4]
    assert validation.unanswered == 6


def test_a_teacher_that_answers_nothing_of_a_part_ends_the_judging() -> None:
    samples = mails(6, teacher=False)
    one = samples.take([1])
    with pytest.raises(SamplesMissingError, match="no sample in fit that the teacher answers"):
        Validation(fit=one, choose=one, gate=one).answered(lambda part: part.with_teacher(Picky(samples)))


def test_what_a_teacher_that_answers_nothing_raised_first_ends_the_message() -> None:
    class Broken(Picky):
        def log_probs(self, inputs: pa.Array) -> np.ndarray:
            raise KeyError("my own bug" if len(inputs) > 1 else "a later one")

    samples = mails(6, teacher=False)
    with pytest.raises(SamplesMissingError) as raised:
        Validation(fit=samples, choose=samples, gate=samples).answered(lambda part: part.with_teacher(Broken(samples)))
    assert str(raised.value).endswith(
        "no sample in fit that the teacher answers (fit 0, choose 0, gate 0); expected some in each of "
        "fit, choose, gate; the teacher raised KeyError: 'my own bug'"
    )
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
