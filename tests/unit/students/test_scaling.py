"""How many workers a student's trainer gets: by its range, by what the cluster offers, and without starving another."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import RunFile, StudentSection, load
from pipeline.errors import ConfigError
from pipeline.students.scaling import TRAINER, rivals_of, scale_of, trainers_offered

RUN = """
name = "mine"
classes = ["ham", "spam"]
stream.path = "stream.jsonl"
validation.path = "stream.jsonl"
teacher = {{ use = "mine:load", cpus = {teacher_cpus} }}
fleet.populations.phones.student = "a"
{students}
"""


def run_of(*workers: Any, teacher_cpus: float = 1.0, cpus: float = 0.5) -> RunFile:
    students = "\n".join(
        f"students.{name} = {{ workers = {amount}, cpus = {cpus} }}" for name, amount in zip("abcd", workers, strict=False)
    )
    return load(RUN.format(students=students, teacher_cpus=teacher_cpus), where="run.toml")


def test_a_number_is_fixed_and_asks_for_nothing_that_a_cluster_must_declare() -> None:
    scale = scale_of(StudentSection(workers=2, cpus=0.5, gpus=0.25), offered=8, rivals=(3,))
    assert (scale.least, scale.most, scale.elastic, dict(scale.resources), scale.says) == (2, 2, False, {"CPU": 0.5, "GPU": 0.25}, "")


def test_a_range_is_elastic_where_nodes_offer_trainers() -> None:
    scale = scale_of(StudentSection(workers=(1, 4), cpus=0.5, gpus=1.0), offered=2)
    assert (scale.least, scale.most, scale.elastic) == (1, 4, True), "the cluster may grow"
    assert dict(scale.resources) == {"CPU": 0.5, "GPU": 1.0, TRAINER: 1.0}


def test_a_range_without_such_nodes_is_its_least_and_says_how_to_declare_them() -> None:
    scale = scale_of(StudentSection(workers=(2, 4)), offered=0)
    assert (scale.least, scale.most, scale.elastic) == (2, 2, False)
    assert TRAINER not in scale.resources
    assert """ray start --resources '{"kd_trainer": N}'""" in scale.says


@pytest.mark.parametrize("found", ["0", "[0, 2]", "[4, 1]", "[1]", "[1, 2, 3]", "true", "1.5", '"2"', "[1, true]", "[]"])
def test_what_is_neither_a_number_nor_a_range_is_refused_by_name(found: str) -> None:
    with pytest.raises(
        ConfigError, match=r"students\.a\.workers: .* neither a number of workers nor a range of them, such as 2 or \[1, 4\]"
    ):
        run_of(found)


def test_a_range_of_one_number_is_that_number_and_a_range_survives_json() -> None:
    assert StudentSection(workers=(3, 3)).workers == 3
    section = run_of("[1, 4]").students["a"]
    assert section.workers == (1, 4)
    assert StudentSection.model_validate(section.model_dump(mode="json")) == section


@given(
    ranges=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=4),
    cpus=st.integers(1, 32),
    of_one=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_every_elastic_student_finds_its_least_in_whatever_order_they_ask(ranges: list[tuple[int, int]], cpus: int, of_one: float) -> None:
    run = run_of(*([least, least + more] for least, more in ranges), cpus=of_one)
    offered = trainers_offered(run, cpus)
    elastic = {name: s for name, s in run.students.items() if s.workers_least < s.workers_most}
    assert (offered == 0) is (not elastic)
    for order in (list(elastic), list(reversed(elastic))):
        left = offered
        for name in order:
            scale = scale_of(elastic[name], offered=offered, rivals=rivals_of(run, name))
            assert elastic[name].workers_least == scale.least <= scale.most <= elastic[name].workers_most
            taken = min(left, scale.most)
            assert taken >= scale.least, "it would wait for another to end"
            left -= taken


def test_a_machine_of_its_own_keeps_room_for_the_teacher_and_for_students_of_a_fixed_number() -> None:
    assert trainers_offered(run_of("[1, 8]"), cpus=4) == 6
    assert trainers_offered(run_of("[1, 8]", "2"), cpus=4) == 4
    assert trainers_offered(run_of("[1, 8]", teacher_cpus=3.0), cpus=4) == 2
    assert trainers_offered(run_of("[2, 8]"), cpus=1) == 2, "the least is asked for, and said to have no room"
    assert trainers_offered(run_of("[1, 3]"), cpus=64) == 3
