"""The loop's decisions: when a generation opens, and that its steps never go back."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import load
from pipeline.loop.generation import Opening, Step, StudentFacts, amended, next_step, opening, spec_digest, wanted_digests
from pipeline.recipes import recipe_text

ORDER = list(Step)
DIGESTS = st.dictionaries(st.sampled_from(["small", "base", "tiny"]), st.sampled_from(["a", "b"]), min_size=1)


def test_the_code_of_a_users_own_student_is_part_of_what_it_is_and_that_of_a_shipped_one_is_not() -> None:
    made = load(recipe_text("spam"), where="spam")
    mine, edited, shipped = (spec_digest(made, "small", source=source) for source in ("one", "two", ""))
    assert len({mine, edited, shipped}) == 3
    assert shipped == wanted_digests(made, dict.fromkeys(made.students, ""))["small"]


def test_nothing_new_and_nothing_changed_opens_no_generation() -> None:
    assert opening(last_generation=3, new_rows=0, wanted={"small": "a"}, trained={"small": "a"}) is None


def test_new_rows_concern_every_student() -> None:
    found = opening(last_generation=1, new_rows=10, wanted={"small": "a", "base": "b"}, trained={"small": "a", "base": "x"})
    assert found is not None
    assert (found.generation, dict(found.students)) == (2, {"small": "a", "base": "b"})


@given(wanted=DIGESTS, trained=DIGESTS, new_rows=st.integers(0, 3))
def test_without_new_rows_exactly_the_changed_students_train(wanted: dict[str, str], trained: dict[str, str], new_rows: int) -> None:
    found = opening(last_generation=0, new_rows=new_rows, wanted=wanted, trained=trained)
    changed = {name for name in wanted if trained.get(name) != wanted[name]}
    taking_part = set(found.students) if found else set()
    assert taking_part == (set(wanted) if new_rows else changed)


FACTS = st.builds(
    StudentFacts,
    trained=st.booleans(),
    failed=st.booleans(),
    ships=st.sampled_from([None, True, False]),
    signed=st.booleans(),
    populations=st.integers(0, 2),
    rollouts_ended=st.integers(0, 2),
)


@given(students=st.dictionaries(st.sampled_from("abc"), FACTS, min_size=1), grown=st.sampled_from(["trained", "signed", "labels"]))
def test_a_fact_that_becomes_true_never_moves_a_generation_back_to_labelling(students: dict[str, StudentFacts], grown: str) -> None:
    before = next_step(labels_ended=grown != "labels", students=students)
    if grown == "labels":
        after = next_step(labels_ended=True, students=students)
    else:
        after = next_step(labels_ended=True, students={n: replace(s, **{grown: True}) for n, s in students.items()})
    if before is not Step.LABEL_AND_TRAIN:
        assert after is not Step.LABEL_AND_TRAIN


def test_a_clean_generation_takes_each_step_once_in_order() -> None:
    facts = StudentFacts(populations=1)
    seen = [next_step(labels_ended=False, students={"s": facts})]
    for change in ({"trained": True}, {"ships": True}, {"signed": True}, {"rollouts_ended": 1}):
        facts = replace(facts, **change)
        seen.append(next_step(labels_ended=True, students={"s": facts}))
    assert seen == ORDER


def test_a_refused_student_ships_nothing_and_the_generation_closes() -> None:
    facts = StudentFacts(trained=True, ships=False, populations=1)
    assert next_step(labels_ended=True, students={"s": facts}) is Step.CLOSE


def test_a_failed_student_does_not_hold_the_others() -> None:
    students = {"bad": StudentFacts(failed=True, populations=1), "good": StudentFacts(trained=True)}
    assert next_step(labels_ended=True, students=students) is Step.JUDGE


@given(left=DIGESTS, wanted=DIGESTS, trained=st.frozensets(st.sampled_from(["small", "base", "tiny"])))
def test_a_changed_run_file_never_touches_a_student_that_has_trained(
    left: dict[str, str], wanted: dict[str, str], trained: frozenset[str]
) -> None:
    before = Opening(generation=4, new_rows=7, students=left)
    after = amended(before, wanted=wanted, trained=trained)
    for name, digest in left.items():
        if name in trained:
            assert after.students[name] == digest
        elif name in wanted:
            assert after.students[name] == wanted[name]
        else:
            assert name not in after.students
    assert set(after.students) <= set(left)
