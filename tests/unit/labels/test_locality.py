"""What is labelled at the same time, where a source is larger than its readers' memory."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.ledger import Ledger
from pipeline.labels.locality import reading_groups
from pipeline.labels.rowspace import plan_of, planned

SIZES = st.lists(st.integers(0, 100), min_size=1, max_size=30)


def plans_of(sizes):
    return planned([(f"p{number}", f"p{number}", 20) for number in range(len(sizes))], known=[], unit_rows=5)


@given(sizes=SIZES, budget=st.integers(1, 400), seed=st.integers(0, 99))
def test_every_part_is_in_one_group_and_no_group_is_larger_than_memory_unless_one_part_is(sizes, budget, seed):
    held = {f"p{number}": size for number, size in enumerate(sizes)}
    groups = reading_groups(plans_of(sizes), held, budget_bytes=budget, seed=seed)
    assert groups.keys() == held.keys()
    members: dict[int, list[int]] = defaultdict(list)
    for part, group in groups.items():
        members[group] += [held[part]] if held[part] else []
    assert all(sum(group) <= budget or len(group) == 1 for group in members.values())
    assert sorted(set(groups.values())) == list(range(max(groups.values()) + 1))


@given(sizes=SIZES)
def test_a_source_that_fits_or_says_nothing_is_one_group(sizes):
    held = {f"p{number}": size for number, size in enumerate(sizes)}
    assert set(reading_groups(plans_of(sizes), held, budget_bytes=sum(sizes) + 1, seed=1).values()) == {0}
    assert set(reading_groups(plans_of(sizes), {}, budget_bytes=1, seed=1).values()) == {0}


def test_units_of_one_group_are_leased_before_those_of_the_next_and_mixed_within():
    plans = plans_of([60] * 6)
    groups = reading_groups(plans, {plan.part: 60 for plan in plans}, budget_bytes=120, seed=3)
    units = [(start, start + 5) for start in range(0, 120, 5)]
    ledger = Ledger(units, seed=3, lease_s=9, group=lambda start: groups[plan_of(plans, start).part])
    leased: list[str] = []
    while lease := ledger.lease(f"w{len(leased)}", now_s=0):
        leased.append(plan_of(plans, lease.unit.start).part)
    order = [groups[part] for part in leased]
    assert order == sorted(order)
    assert sorted(set(order)) == [0, 1, 2]
    first_two = leased[:8]
    assert first_two != sorted(first_two), "both parts of a group are labelled at the same time"
