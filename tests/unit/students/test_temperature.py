"""What a temperature is fitted to, and that it is fitted to numbers."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.distill.losses import NO_LABEL
from pipeline.distill.metrics import fit_temperature, log_softmax
from pipeline.students.faults import AnswersNotFiniteError
from pipeline.students.fidelity import loss_basis, loss_of
from pipeline.students.samples import LABELS_MIN, Samples
from pipeline.students.temperature import fitted_temperature
from tests.kit.students import mails

FIT = mails(200)
CHANCE = np.random.default_rng(0)
LOGITS = (log_softmax(FIT.teacher_NK) * 3 + CHANCE.normal(size=(200, 2)) * 4).astype(np.float32)  # type: ignore[arg-type]


def unlabelled(samples: Samples, *rows: int) -> Samples:
    hard_N = samples.hard_N.copy()
    hard_N[list(rows)] = NO_LABEL
    return replace(samples, hard_N=hard_N)


def test_one_unlabelled_sample_moves_the_temperature_no_further_than_one_sample_can() -> None:
    of_all, of_the_rest = (fitted_temperature("small", LOGITS, fit) for fit in (FIT, unlabelled(FIT, 7)))
    assert of_the_rest.temperature == pytest.approx(of_all.temperature, rel=0.05)
    assert (of_all.basis, of_the_rest.basis) == ("hard labels of 200 samples of fit", "hard labels of 199 samples of fit")


def test_where_labels_are_too_few_it_is_the_teachers_answers_and_without_a_teacher_nothing() -> None:
    few = unlabelled(FIT, *range(LABELS_MIN - 1, 200))
    assert fitted_temperature("small", LOGITS, few).basis == "the teacher's answers to 200 samples of fit"
    alone = fitted_temperature("small", LOGITS, replace(few, teacher_NK=None))
    assert alone.temperature == 1.0
    assert alone.basis.startswith("nothing: too few hard labels")


def test_an_answer_that_is_no_number_is_refused_with_its_sample() -> None:
    logits_NK = LOGITS.copy()
    logits_NK[3, 0] = np.nan
    with pytest.raises(AnswersNotFiniteError, match=r"it answers 1 of 200 validation samples .* sample mail-1:3$"):
        fitted_temperature("small", logits_NK, FIT)
    with pytest.raises(ValueError, match="finite logits"):
        fit_temperature(logits_NK, np.eye(2)[FIT.hard_N])


def test_the_loss_of_a_file_is_counted_on_the_labelled_samples() -> None:
    right_NK = np.eye(2)[FIT.hard_N].astype(np.float32)
    wrong_NK = right_NK.copy()
    wrong_NK[:10] = right_NK[:10, ::-1]
    assert loss_of(wrong_NK, right_NK, FIT) == pytest.approx(10 / 200)
    some = unlabelled(FIT, *range(5), *range(100, 195))
    assert loss_of(wrong_NK, right_NK, some) == pytest.approx(5 / 100)
    assert loss_basis(some) == "hard labels of 100 samples of choose"
    none = mails(200, hard=False)
    assert loss_of(wrong_NK, right_NK, none) == pytest.approx(10 / 200)
    assert loss_basis(none) == "the module's own answers to 200 samples of choose"
