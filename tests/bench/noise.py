"""noise: what each weighting policy does where some of the teacher's labels are wrong, and what it costs where none is.

Fashion-MNIST at 14 x 14, five splits x seeds. The teacher is an ensemble of three models that were fitted on 1,000 labelled pictures; a
small perceptron learns from what it says about 6,000. Of 0, 10 or 30 % of them two members, nine tenths of the mean, say something wrong:
their classes are turned round by a random number of places, so that each is as sure as before and names another class. The third member
is left alone. Evidence is computed as a labeller computes it: entropy and margin of the mean, disagreement of the members, agreement with
the source's own label, at which only `hard_label` looks.

A policy's power is chosen on `choose` for each split; the test split is asked about what was chosen, and about power 1, the default.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from pipeline.config import StudentSection
from pipeline.distill.metrics import accuracy
from pipeline.distill.weighting import POLICIES
from pipeline.labels.codecs import CLAMP_NATS
from pipeline.students.memory import Extras
from pipeline.students.samples import Samples
from pipeline.teachers.ensemble import disagreement, weighted_mean
from tests.bench.compare import Comparison, compare, markdown, paired, points
from tests.bench.picture_students import judged, rank, taught
from tests.bench.pictures import Pictures, Sizes, fashion_mnist, halved, pixels_of, split

NAME = "noise"
SEEDS = (1, 2, 3, 4, 5)
SIZES = (1000, 6000, 0, 2000, 10_000)
SHARES = (0.0, 0.1, 0.3)
POWERS = (1.0, 0.5, 2.0)
MEMBERS_M = np.array([0.45, 0.45, 0.1])
"""Weights of the members; the last is never wrong on purpose."""
LEAST = float(np.exp(CLAMP_NATS))
NONE = "no policy"

SECTION = StudentSection(use="mlp", batch=128, steps=300, learning_rate=2e-2, temperature=2.0, average=0.98)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Shares right, of one way to weigh on one split."""

    on_choose: tuple[float, float]
    """What it was chosen by."""
    test: float
    test_power_1: float
    power: float


def run(runs: int = len(SEEDS), *, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> list[Comparison]:
    """Cases: `N % wrong, POLICY`: accuracy on the first `runs` of SEEDS, against no policy; paired differences with 95 % intervals."""
    torch.set_num_threads(1)
    pictures = halved(fashion_mnist())
    splits = [one_split(pictures, seed, say=say) for seed in SEEDS[:runs]]
    say(table(splits))
    return comparisons(splits)


def one_split(
    pictures: Pictures, seed: int, *, sizes: Sizes = SIZES, section: StudentSection = SECTION, say: Callable[[str], None]
) -> dict[tuple[float, str], Found]:
    """What came of each share of wrong labels and each policy, on one split."""
    parts = split(pictures, sizes, seed=seed)
    members_MNK = _answers(parts["labelled"], parts["stream"], seed=seed)
    section = section.model_copy(update={"options": {"features": pictures.side**2}})
    found = {}
    for share in SHARES:
        wrong_MNK = planted(members_MNK, share, seed=seed)
        mean_NK = weighted_mean(wrong_MNK, MEMBERS_M, space="probability").astype(np.float32)
        stream = Samples(ids=parts["stream"].ids, inputs=parts["stream"].inputs, hard_N=parts["stream"].hard_N, teacher_NK=mean_NK)
        extras = Extras(disagreement_N=disagreement(wrong_MNK, MEMBERS_M).astype(np.float32))
        for policy in (NONE, *sorted(POLICIES)):
            found[share, policy] = _best(policy, stream, extras, parts, section, seed)
        right = accuracy(mean_NK, stream.hard_N)
        told = ", ".join(f"{policy} {found[share, policy].test:.4f}" for policy in (NONE, *sorted(POLICIES)))
        say(f"seed {seed}, {share:.0%} wrong (labels right {right:.3f}): {told}")
    return found


def planted(members_MNK: NDArray[np.float64], share: float, *, seed: int) -> NDArray[np.float64]:
    """All members' answers but the last's with the classes of `share` of the rows turned by 1 to K - 1 places, the same for all."""
    chance = np.random.default_rng((seed, 1))
    rows, classes = members_MNK.shape[1:]
    is_wrong_N = chance.permutation(rows) < round(share * rows)
    turn_N = np.where(is_wrong_N, chance.integers(1, classes, rows), 0)
    place_NK = (np.arange(classes) + turn_N[:, None]) % classes
    turned_MNK = np.stack([np.take_along_axis(answers_NK, place_NK, axis=1) for answers_NK in members_MNK[:-1]])
    return np.concatenate([turned_MNK, members_MNK[-1:]])


def comparisons(splits: list[dict[tuple[float, str], Found]]) -> list[Comparison]:
    found = []
    for share in SHARES:
        plain = [of[share, NONE].test for of in splits]
        for policy in sorted(POLICIES):
            case = f"{share:.0%} wrong, {policy}"
            ours = [of[share, policy].test for of in splits]
            found.append(compare(name=NAME, case=case, unit="share right", ours=ours, against=NONE, theirs=plain))
            found += paired(name=NAME, case=f"{case} minus {NONE}", unit="share right", ours=ours, theirs=plain)
            at_1 = [of[share, policy].test_power_1 for of in splits]
            found += paired(name=NAME, case=f"{case} at power 1 minus {NONE}", unit="share right", ours=at_1, theirs=plain)
        chosen = [_chosen(of, share).test for of in splits]
        found += paired(
            name=NAME, case=f"{share:.0%} wrong, what did best on `choose` minus {NONE}", unit="share right", ours=chosen, theirs=plain
        )
    return found


def table(splits: list[dict[tuple[float, str], Found]]) -> str:
    """For a page: shares right, and what each policy adds, in points."""

    def column(share: float, policy: str) -> list[float]:
        return [of[share, policy].test for of in splits]

    def added(share: float, ours: list[float]) -> str:
        return f"{np.mean(ours):.4f}: {points(ours, column(share, NONE))}"

    rows = [["policy", *(f"{share:.0%} wrong" for share in SHARES)]]
    rows.append([NONE, *(f"{np.mean(column(share, NONE)):.4f}" for share in SHARES)])
    for policy in sorted(POLICIES):
        rows.append([f"`{policy}`", *(added(share, column(share, policy)) for share in SHARES)])
        rows.append([f"`{policy}`, power 1", *(added(share, [of[share, policy].test_power_1 for of in splits]) for share in SHARES)])
    rows.append(["what did best on `choose`", *(added(share, [_chosen(of, share).test for of in splits]) for share in SHARES)])
    return markdown(rows)


def _chosen(found: Mapping[tuple[float, str], Found], share: float) -> Found:
    """What somebody would take who tries every policy and none."""
    return max((found[share, policy] for policy in (NONE, *sorted(POLICIES))), key=lambda one: one.on_choose)


def _best(policy: str, stream: Samples, extras: Extras, parts: Mapping[str, Samples], section: StudentSection, seed: int) -> Found:
    tried = []
    for power in POWERS if policy != NONE else (1.0,):
        weighed = section.model_copy(update={"weighting": {} if policy == NONE else {policy: power}})
        student = taught(weighed, stream, extras, seed=seed)
        tried.append((rank(student, parts["choose"]), power, student))
    on_choose, power, student = max(tried, key=lambda one: one[0])
    return Found(
        on_choose=on_choose,
        test=judged(student, parts["test"])[0],
        test_power_1=judged(tried[POWERS.index(1.0)][2], parts["test"])[0],
        power=power,
    )


def _answers(labelled: Samples, stream: Samples, *, seed: int) -> NDArray[np.float64]:
    """Log-probabilities of the members, fitted on `labelled`, for the stream."""
    members = (
        CalibratedClassifierCV(SVC(C=10.0, gamma="scale"), ensemble=False, cv=3),
        ExtraTreesClassifier(200, random_state=seed),
        LogisticRegression(max_iter=300),
    )
    fitted = [member.fit(pixels_of(labelled), labelled.hard_N) for member in members]
    return np.stack([np.log(np.maximum(member.predict_proba(pixels_of(stream)), LEAST)) for member in fitted])
