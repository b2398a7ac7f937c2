"""Replicas of one teacher: who answers otherwise or much more slowly than the others is found and replaced."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.intervals import Intervals
from pipeline.labels.log import LogReader
from pipeline.labels.rowspace import planned
from tests.kit.labelling import Bench, MemorySource, OtherTeacher, assert_exactly_once
from tests.kit.stores import MemoryStore
from workers.labelling.canary import TOLERANCE, TOLERANCE_HALF, Jury, distance, hear, tolerance_for
from workers.labelling.faults import TeachersDisagreeError
from workers.labelling.inspection import ANSWER_MAX_VALUES, canary_of
from workers.labelling.pace import PaceMemory, PaceRule, judge_pace

BASE_NK = np.log(np.random.default_rng(5).dirichlet(np.ones(4), 6)).astype(np.float32)


def answer(moved: float, noise: int = 0):
    """An answer `moved` (total variation) away from the truth in every sample, with noise far below the tolerance."""
    probs_NK = np.exp(BASE_NK.astype(np.float64)) * (1 - moved)
    probs_NK[:, noise % 4] += moved + 1e-5 * noise
    return np.log(probs_NK / probs_NK.sum(axis=1, keepdims=True)).astype(np.float32)


def heard(answers) -> tuple[Jury, frozenset[str]]:
    jury, far = Jury(), frozenset[str]()
    for number, log_probs_NK in enumerate(answers):
        jury, far = hear(jury, f"r{number}", log_probs_NK)
    return jury, far


@given(good=st.integers(1, 9), bad=st.integers(0, 8), data=st.data())
def test_a_minority_that_answers_otherwise_is_found_whatever_the_order(good, bad, data):
    bad = min(bad, good - 1)
    answers = [(False, answer(0, noise)) for noise in range(good)] + [(True, answer(0.5 + 0.04 * number, 1)) for number in range(bad)]
    answers = data.draw(st.permutations(answers))
    jury, far = heard([log_probs_NK for _, log_probs_NK in answers])
    assert far == {f"r{number}" for number, (is_bad, _) in enumerate(answers) if is_bad}
    assert not jury.split


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_replicas_within_the_tolerance_never_deviate(noises):
    jury, far = heard([answer(0, noise) for noise in noises])
    assert (far, jury.split) == (frozenset(), False)


def test_of_two_that_disagree_the_older_stays_until_a_third_decides():
    votes = [answer(0.5, 1), answer(0), answer(0, 1)]
    jury, far = heard(votes[:2])
    assert (far, jury.undecided, jury.split) == ({"r1"}, True, False)
    jury, far = heard(votes)
    assert (far, jury.undecided, jury.split) == ({"r0"}, False, False)


def test_three_answers_of_which_no_two_agree_are_a_split_and_so_are_two_camps():
    assert heard([answer(0), answer(0.3, 1), answer(0.6, 1)])[0].split
    assert heard([answer(0), answer(0, 1), answer(0.6, 1), answer(0.6, 1)])[0].split


def test_a_replica_that_changes_its_mind_deviates_from_its_own_vote():
    jury, _ = hear(Jury(), "r", answer(0))
    assert hear(jury, "r", answer(0, 2))[1] == frozenset()
    assert hear(jury, "r", answer(0.2))[1] == {"r"}


def test_a_sample_that_nobody_can_answer_says_nothing_and_one_that_only_one_cannot_says_all():
    broken = answer(0)
    broken[2] = np.nan
    assert distance(broken, broken) == 0
    assert distance(broken, answer(0)) == 1
    certain = np.array([[0, -np.inf]], dtype=np.float32)
    assert distance(certain, certain) == 0


def test_answers_in_half_precision_may_differ_by_more():
    exact = answer(0)
    assert tolerance_for(exact, exact) == TOLERANCE
    assert tolerance_for(exact, exact.astype(np.float16).astype(np.float32)) == TOLERANCE_HALF
    bf16 = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert tolerance_for(bf16, exact) == TOLERANCE_HALF


def test_the_canary_is_of_the_first_part_that_has_rows_to_label_and_its_answer_is_bounded():
    plans = planned([("empty", "empty", 0), ("done", "done", 50), ("left", "left", 50)], known=[], unit_rows=10)
    done = Intervals([(0, 50)])
    canary = canary_of(plans, done, rows=8, classes=3)
    assert canary
    assert (canary.plan.part, canary.start, canary.stop) == ("left", 50, 58)
    many = canary_of(plans, done, rows=8, classes=ANSWER_MAX_VALUES // 2)
    assert many
    assert many.stop - many.start == 2
    assert canary_of(plans, Intervals([(0, 100)]), rows=8, classes=3) is None
    assert canary_of(plans, done, rows=0, classes=3) is None


RULE = PaceRule(units=2, slow_for_s=10, rest_s=100)


def paces(seconds, at_s, memory=None, rule=RULE):
    units = {f"r{number}": [own_s] * rule.units for number, own_s in enumerate(seconds)}
    return judge_pace(units, memory or PaceMemory(), rule, now_s=at_s)


def test_a_replica_is_replaced_for_its_pace_after_a_while_and_the_next_much_later():
    name, memory = paces([1, 1, 1, 9, 9], 0)
    assert name is None
    name, memory = paces([1, 1, 1, 9, 9], 10, memory)
    assert name in ("r3", "r4")
    for at_s, replaced in ((109, False), (110, True), (309, False), (310, True)):
        name, memory = paces([1, 1, 1, 9, 9], at_s, memory)
        assert (name is not None) == replaced, at_s


def test_a_replica_on_the_border_must_recover_well_to_count_as_well():
    _, memory = paces([1, 1, 3.5], 0)
    _, memory = paces([1, 1, 2.5], 5, memory)
    assert paces([1, 1, 2.5], 10, memory)[0] == "r2"
    _, memory = paces([1, 1, 1.9], 9, memory)
    assert paces([1, 1, 3.5], 10, memory)[0] is None


def test_one_slow_unit_is_no_slow_replica():
    units = {"r0": [1.0] * 5, "r1": [1.0] * 5, "r2": [1.0, 99.0, 1.0, 1.0, 1.0]}
    rule = PaceRule(slow_for_s=0)
    assert judge_pace(units, PaceMemory(), rule, now_s=0)[0] is None


@given(st.lists(st.floats(0.5, 1.0), min_size=0, max_size=9), st.lists(st.floats(0, 1000), min_size=1, max_size=20))
def test_replicas_of_like_pace_are_left_alone_and_so_are_fewer_than_three(seconds, times):
    memory = PaceMemory()
    for at_s in sorted(times):
        name, memory = paces(seconds, at_s, memory)
        assert name is None
        assert paces([1, 1000], at_s)[0] is None


@given(st.lists(st.floats(0, 5000), min_size=2, max_size=60), st.permutations([1, 1, 1, 50, 50]))
def test_replacements_are_ever_further_apart(times, seconds):
    memory, replaced_s = PaceMemory(), []
    for at_s in sorted(times):
        name, memory = paces(seconds, at_s, memory)
        replaced_s += [at_s] if name else []
    assert all(later - earlier >= RULE.rest_s * 2**number for number, (earlier, later) in enumerate(itertools.pairwise(replaced_s)))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def bench_of(store, *, rows: int = 400, workers_max: int = 3, **options) -> Bench:
    source = MemorySource({"a": [f"text {row}" for row in range(rows)]})
    return Bench(store, source, workers_max=workers_max, canary_rows=8, **options)


def test_replicas_that_agree_stay_and_the_canary_costs_no_label(store):
    bench = bench_of(store, canary_every_s=1.0)
    outcome = bench.run()
    assert (outcome.rows_committed, outcome.teacher_calls, outcome.teachers_taken_out) == (400, 400, 0)
    assert len(bench.teacher.asked) > 400
    assert_exactly_once(store, bench.source)


def test_a_replica_that_answers_otherwise_labels_nothing_and_another_takes_its_place(store):
    bench = bench_of(store)
    bench.replicas[2] = OtherTeacher()
    outcome = bench.run()
    assert outcome.teachers_taken_out == 1
    assert outcome.says == "replaced: 1 answered otherwise than the others"
    assert len(bench.replicas[2].asked) == 8, "the canary, and nothing else"
    assert bench.crews[0].started == 4
    assert_exactly_once(store, bench.source)


def test_a_first_replica_that_was_wrong_is_taken_out_once_two_others_say_so(store):
    bench = bench_of(store)
    bench.replicas[1] = OtherTeacher()
    outcome = bench.run()
    assert outcome.teachers_taken_out == 2
    assert outcome.rows_committed == 400
    assert len(bench.replicas[1].asked) < 200, "nobody works while it is one's word against another's"
    assert LogReader(store).refresh().rows_quarantined == 0


def test_what_a_replica_has_not_delivered_when_it_turns_bad_is_given_to_others(store):
    bench = bench_of(store, canary_every_s=1.0)
    bench.replicas[2] = OtherTeacher(after=60)
    outcome = bench.run()
    assert outcome.teachers_taken_out == 1
    assert outcome.rows_committed == outcome.rows_planned == 400
    assert len(bench.replicas[2].asked) < 200


def test_replicas_of_which_no_two_agree_end_the_run_and_what_is_committed_stays(store):
    bench = bench_of(store)
    bench.replicas |= {2: OtherTeacher(0.3), 3: OtherTeacher(0.6)}
    with pytest.raises(TeachersDisagreeError, match=r"of 3 replicas .* at least 2 answer .* otherwise.*labelling.canary_tolerance"):
        bench.run()


def test_a_wide_tolerance_accepts_a_teacher_that_draws_at_random(store):
    bench = bench_of(store, canary_tolerance=1.0)
    bench.replicas |= {2: OtherTeacher(0.3), 3: OtherTeacher(0.6)}
    assert bench.run().teachers_taken_out == 0


@pytest.mark.parametrize("word", ["kill", "hang"])
def test_samples_that_end_every_process_are_a_bad_canary_and_no_reason_not_to_begin(store, word):
    bench = Bench(store, MemorySource({"a": [word, *(f"text {row}" for row in range(20))]}), canary_rows=4, lease_s=3.0)
    outcome = bench.run()
    assert (outcome.ended, outcome.rows_committed, outcome.rows_quarantined) == (True, 20, 1)
    assert_exactly_once(store, bench.source)


@pytest.mark.parametrize("word", ["poison", "nan", "unparseable"])
def test_samples_that_no_replica_can_answer_are_held_against_none(store, word):
    bench = Bench(store, MemorySource({"a": [word, *(f"text {row}" for row in range(200))]}), canary_rows=4, workers_max=3)
    outcome = bench.run()
    assert (outcome.rows_committed, outcome.teachers_taken_out) == (200, 0)


def test_a_source_that_cannot_be_read_is_said_to_be_the_source(store):
    bench = bench_of(store)
    bench.labelling().plan()
    bench.source.read_error = OSError("stale file handle")
    with pytest.raises(Exception, match="stale file handle"):
        bench.run()


def test_a_replica_much_slower_than_the_others_is_drained_and_replaced(store):
    bench = bench_of(store, rows=1200, workers_max=4)
    bench.tick_s = 0.5
    bench.seconds_per_row |= {f"worker-{number}": 9.0 if number == 2 else 1.0 for number in range(1, 9)}
    outcome = bench.run()
    assert (outcome.teachers_taken_out, outcome.says) == (1, "replaced: 1 much slower than the others")
    assert bench.crews[0].started == 5
    assert_exactly_once(store, bench.source)
