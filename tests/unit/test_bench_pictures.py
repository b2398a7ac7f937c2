"""What the benchmarks of students plant, draw and measure, on a few pictures."""

import numpy as np
import pytest

from pipeline.config import StudentSection
from pipeline.distill.losses import LOSSES
from pipeline.distill.weighting import POLICIES
from tests.bench import noise, vision, vision_losses
from tests.bench.__main__ import known
from tests.bench.compare import paired
from tests.bench.picture_students import taught
from tests.bench.pictures import PARTS, digits, halved, split
from tests.bench.vision_teacher import Lessons, conv_teacher, edge_teacher, edges, lessons_of

SIZES = (60, 80, 20, 30, 100)
QUICK = StudentSection(use="pixels", options={"height": 8, "width": 8, "filters": 4, "layers": 2}, batch=32, steps=6)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return lessons_of(digits(), SIZES, edge_teacher, seed=1)


def test_parts_of_a_split_are_disjoint_and_another_seed_draws_others() -> None:
    parts, others = (split(digits(), SIZES, seed=seed) for seed in (1, 2))
    assert [len(parts[part]) for part in PARTS] == list(SIZES)
    assert len({sample for part in parts.values() for sample in part.ids}) == sum(SIZES)
    assert set(parts["test"].ids) != set(others["test"].ids)


def test_a_picture_halved_keeps_its_mean() -> None:
    found = digits()
    np.testing.assert_allclose(halved(found).pixels_NF.mean(axis=1), found.pixels_NF.mean(axis=1), atol=1e-6)


def test_a_planted_label_is_as_sure_as_before_and_names_another_class_and_one_member_stays_right() -> None:
    probs_MNK = np.random.default_rng(1).dirichlet(np.ones(10), (3, 200))
    before_MNK = np.log(probs_MNK)
    after_MNK = noise.planted(before_MNK, 0.3, seed=1)
    is_wrong_N = (after_MNK != before_MNK).any(axis=(0, 2))
    assert is_wrong_N.sum() == 60
    np.testing.assert_array_equal(after_MNK[-1], before_MNK[-1])
    np.testing.assert_array_equal(np.sort(after_MNK), np.sort(before_MNK))
    assert (after_MNK.argmax(2) != before_MNK.argmax(2))[:-1, is_wrong_N].all()
    np.testing.assert_array_equal(noise.planted(before_MNK, 0.0, seed=1), before_MNK)


def test_every_policy_is_measured_at_every_share_of_wrong_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "POWERS", (1.0,))
    section = noise.SECTION.model_copy(update={"steps": 2})
    found = noise.one_split(digits(), 1, sizes=SIZES, section=section, say=lambda _: None)
    assert set(found) == {(share, policy) for share in noise.SHARES for policy in (noise.NONE, *POLICIES)}
    cases = {comparison.case for comparison in noise.comparisons([found, found])}
    for share in ("0%", "10%", "30%"):
        assert all(f"{share} wrong, {policy} minus no policy, paired, 95 % interval, low" in cases for policy in POLICIES)
    assert all(f"| `{policy}` |" in noise.table([found, found]) for policy in POLICIES)


def test_every_soft_loss_is_measured() -> None:
    measured = {*vision_losses.TEMPERED, *vision_losses.SPARSE, *vision_losses.HINTS}
    assert measured == set(LOSSES) - {"ce"}


def test_students_of_one_split_are_judged_as_the_files_that_ship(lessons: Lessons) -> None:
    found = vision.one_split(lessons, QUICK, seed=1)
    assert set(found) == {"teacher", "control", "distilled", "both"}
    assert found["teacher"]["accuracy"] > 0.5
    assert all(0 <= figures["accuracy"] <= 1 for figures in found.values())
    assert {"int8", "size"} <= set(found["both"])
    assert "| distilled | " in vision.table("digits", [found, found])


def test_the_stream_has_no_hard_labels_and_all_parts_have_the_teachers_answers(lessons: Lessons) -> None:
    assert (lessons.parts["stream"].hard_N == -1).all()
    assert all(samples.teacher_NK is not None and samples.teacher_NK.shape == (len(samples), 10) for samples in lessons.parts.values())


@pytest.mark.parametrize("name", ["ghost", "rs_kd", "hint", "hint_cosine"])
def test_losses_of_sparse_labels_and_of_embeddings_get_what_they_need(lessons: Lessons, name: str) -> None:
    seen_ND = np.random.default_rng(1).standard_normal((len(lessons.parts["stream"]), 5)).astype(np.float32)
    told = Lessons(parts=lessons.parts, seen_ND=seen_ND, teacher_size=1)
    (way, *_) = vision_losses.ways(name)
    taught(QUICK.model_copy(update=dict(way)), told.parts["stream"], vision_losses.extras_of(name, told), seed=1)


def test_a_flat_picture_has_no_edges_and_a_step_has_some() -> None:
    flat, step = np.full((1, 64), 0.5, np.float32), np.tile(np.repeat([0.0, 1.0], 4), 8)[None].astype(np.float32)
    assert not edges(flat, 8).any()
    assert edges(step, 8).max() > 0.1


def test_a_convolutional_teacher_gives_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.vision_teacher.EPOCHS", 1)
    parts = split(digits(), SIZES, seed=1)
    told, seen_ND = conv_teacher(digits(), parts["labelled"], 1).told(parts["choose"])
    assert told.teacher_NK is not None
    assert (told.teacher_NK.shape, seen_ND.shape) == ((30, 10), (30, 128))


def test_a_paired_difference_of_one_run_has_no_interval() -> None:
    assert [found.figure for found in paired(name="x", case="y", unit="share", ours=[0.5], theirs=[0.25])] == [0.25]
    mean, low, high = (found.figure for found in paired(name="x", case="y", unit="share", ours=[0.5, 0.7], theirs=[0.4, 0.5]))
    assert low < mean < high
    assert mean == pytest.approx(0.15)


def test_a_table_says_differences_in_points() -> None:
    says = vision_losses.table({"kl": [0.9, 0.8], "dist": [0.92, 0.82]})
    assert says.splitlines()[2:] == ["| `kl` | 0.8500 |  |", "| `dist` | 0.8700 | +2.0 (+2.0 to +2.0) |"]


def test_the_benchmarks_of_students_are_known() -> None:
    assert {"noise", "vision"} <= set(known())
