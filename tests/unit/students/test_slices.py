"""Slices of the gate's samples: which there are, which is the worst, and when a budget on them refuses."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.budgets import GateSection
from pipeline.config import SourceSection
from pipeline.distill.metrics import expected_calibration_error, log_softmax
from pipeline.sources import open_source
from pipeline.students.breakdown import CONFUSIONS_MAX, break_down
from pipeline.students.gate_lines import slice_lines
from pipeline.students.samples import Samples, read_validation
from pipeline.students.slices import Slice, most_dropped, slices
from tests.kit.students import CLASSES, mails

outcomes = st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans(), st.sampled_from(["de", "en", ""])), min_size=1, max_size=80)


def samples_of(truth: Sequence[int], languages: Sequence[str]) -> Samples:
    return replace(mails(len(truth)), hard_N=np.array(truth, dtype=np.int64), columns={"language": tuple(languages)})


@given(rows=outcomes, rows_min=st.integers(1, 20))
def test_slices_count_their_samples_and_the_worst_comes_first(rows, rows_min: int) -> None:
    truth, right, before, languages = (list(column) for column in zip(*rows, strict=True))
    right_N, before_N = np.array(right), np.array(before)
    found = slices(samples_of(truth, languages), np.array(truth, dtype=np.int64), right_N, before_N, classes=CLASSES, rows_min=rows_min)
    assert [each.share for each in found] == sorted(each.share for each in found)
    for each in found:
        assert each.samples >= rows_min
        assert each.low <= each.share + 1e-9
        assert each.high >= each.share - 1e-9
        assert each.drop_at_least is not None
        assert each.incumbent_right is not None
        assert each.drop_at_least <= (each.incumbent_right - each.right) / each.samples + 1e-9, "for sure is never more than seen"
    for by in {each.by for each in found}:
        assert sum(each.samples for each in found if each.by == by) <= len(rows), "a sample is in one slice of a kind"
    for value in ("de", "en"):
        in_N = np.array([language == value for language in languages])
        shown = [(each.samples, each.right) for each in found if each.name == f"language {value}"]
        assert shown == ([(in_N.sum(), right_N[in_N].sum())] if in_N.sum() >= rows_min else [])
    assert not [each for each in found if each.name == "language "], "a sample without a value is in no slice of the column"


def test_texts_are_cut_by_length_and_by_how_sure_the_teacher_is() -> None:
    samples = mails(200)
    sure = log_softmax(np.random.default_rng(1).normal(size=(200, 2))).astype(np.float32)
    right_N = np.ones(200, dtype=np.bool_)
    found = slices(replace(samples, teacher_NK=sure), samples.hard_N, right_N, None, classes=CLASSES, rows_min=30)
    assert {each.by for each in found} == {"class", "bytes of text", "margin of the teacher"}
    assert sum(each.samples for each in found if each.by == "margin of the teacher") == 200
    alike = slices(replace(samples, inputs=("same",) * 200), samples.hard_N, right_N, None, classes=CLASSES, rows_min=30)
    assert {each.by for each in alike} == {"class"}, "equal lengths and equally sure answers are no slices"


def a_slice(*, share: float, high: float, drop: float | None = None, name: str = "de") -> Slice:
    right = round(100 * share)
    before = None if drop is None else right
    return Slice(
        by="language", value=name, samples=100, right=right, low=0.0, high=high, at_most=high, incumbent_right=before, drop_at_least=drop
    )


def test_a_slice_that_may_be_good_enough_is_not_refused() -> None:
    (line,) = slice_lines([a_slice(share=0.7, high=0.81)], GateSection(slice_right_min=0.8), compared=False)
    assert (line.passed, line.value, line.bound) == (True, 0.7, 0.8)
    assert line.says == "language de: 70 of 100 right, 95 % 0.000 to 0.810"


def test_a_slice_that_is_bad_for_sure_is_refused_by_name_and_by_how_much() -> None:
    found = [a_slice(share=0.5, high=0.85, name="en"), a_slice(share=0.7, high=0.75)]
    (line,) = slice_lines(found, GateSection(slice_right_min=0.8), compared=False)
    assert (line.passed, line.value) == (False, 0.7), "the one that is bad for sure, not the one that looks worst"
    says = "worst slice language de has 0.7 right, for sure at most 0.750, 0.05 or more below its budget 0.8"
    assert line.says == f"{says} (95 % of all 2 slices together)"


def test_a_slice_that_lost_for_sure_is_refused_and_only_against_an_incumbent() -> None:
    found, section = (
        [a_slice(share=0.7, high=0.8, drop=0.12), a_slice(share=0.8, high=0.9, drop=-0.1, name="en")],
        GateSection(slice_drop_max=0.1),
    )
    _, line = slice_lines(found, section, compared=True)
    assert line.passed is False
    assert line.says == "language de lost 0.12 against the incumbent for sure (95 % of all 2 slices together), 0.02 above its budget 0.1"
    assert len(slice_lines(found, section, compared=False)) == 1
    assert slice_lines(found, GateSection(slice_drop_max=0.13), compared=True)[1].passed
    assert most_dropped(found) == found[0]


def test_many_slices_are_no_more_reasons_to_refuse_a_student_that_is_as_good() -> None:
    """Of models that are equally good on each of 60 slices, hardly any is refused; one that lost more than half of a slice is."""
    generator, section = np.random.default_rng(0), GateSection(slice_right_min=0.9, slice_drop_max=0.0)
    languages = [str(number // 50) for number in range(3000)]
    samples = samples_of([0] * 3000, languages)
    samples = replace(samples, inputs=("same",) * 3000, teacher_NK=None)
    refused, noticed = 0, 0
    for _ in range(8):
        right_N, before_N = (generator.random(3000) < 0.9 for _ in range(2))
        lines = refusals(samples, right_N, before_N, section)
        refused += bool(lines)
        right_N[:50] &= generator.random(50) < 0.4
        noticed += any("language 0 " in says for says in refusals(samples, right_N, before_N, section))
    assert refused <= 2
    assert noticed == 8


def refusals(samples: Samples, right_N, before_N, section: GateSection) -> list[str]:
    found = slices(samples, samples.hard_N, right_N, before_N, classes=CLASSES, rows_min=30)
    return [line.says for line in slice_lines(found, section, compared=True) if line.passed is False]


def test_a_budget_on_slices_fails_where_there_is_none_to_hold_it_against() -> None:
    both = GateSection(slice_right_min=0.5, slice_drop_max=0.1)
    assert [line.passed for line in slice_lines([], both, compared=True)] == [False, False]
    (line,) = slice_lines([], GateSection(), compared=True)
    assert (line.passed, line.says) == (None, "no slice has 30 samples")


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 60), classes=st.integers(2, 6))
def test_a_breakdown_adds_up_to_all_samples_and_to_the_calibration_error(seed: int, rows: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    log_probs_NK, truth_N = log_softmax(generator.normal(size=(rows, classes))), generator.integers(0, classes, rows)
    found = break_down(log_probs_NK, truth_N, mails(rows), classes=[str(k) for k in range(classes)], rows_min=30)
    right = int((log_probs_NK.argmax(axis=1) == truth_N).sum())
    assert sum(each.samples for each in found.classes) == sum(band.samples for band in found.bands) == rows
    assert sum(each.right for each in found.classes) == sum(band.right for band in found.bands) == right
    assert sum(each.samples for each in found.confusions) == rows - right
    gaps = sum(abs(band.confidence * band.samples - band.right) for band in found.bands) / rows
    assert gaps == pytest.approx(expected_calibration_error(log_probs_NK, truth_N))


def test_a_breakdown_of_many_classes_keeps_the_commonest_confusions_and_counts_the_rest() -> None:
    generator = np.random.default_rng(0)
    log_probs_NK, truth_N = log_softmax(generator.normal(size=(900, 300))), generator.integers(0, 300, 900)
    found = break_down(log_probs_NK, truth_N, mails(900), classes=[str(k) for k in range(300)], rows_min=30)
    assert len(found.confusions) == CONFUSIONS_MAX
    wrong = int((log_probs_NK.argmax(axis=1) != truth_N).sum())
    assert sum(each.samples for each in found.confusions) + found.confusions_left_out == wrong
    json.dumps(found.to_json(), allow_nan=False)


def test_columns_that_validation_carries_are_slices_and_its_part_is_none(tmp_path) -> None:
    rows = [{"text": f"t{n}", "label": "ham", "part": ("fit", "choose", "gate")[n % 3], "lang": "de" if n < 6 else None} for n in range(12)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = SourceSection(path="v.jsonl", label="label", options={"carry": ["part", "lang"]})
    gate = read_validation(open_source(section, base=tmp_path), classes=CLASSES).gate
    assert gate.columns == {"lang": ("de", "de", None, None)}
    assert gate.take([0, 3]).columns == {"lang": ("de", None)}
