"""What the source has against the log, against everything that can happen to a file."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.entries import Commit, End, Open, Quarantine, Record, Retry, Seal, ShardRef, Supersede
from pipeline.labels.planning import source_change
from pipeline.labels.quarantine import SUPERSEDED
from pipeline.labels.state import LogState, fold

NAMES = ("a", "b")
LOOKS = st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=2), min_size=1, max_size=8)
"""Looks at a folder: name -> version."""


def recorded(state: LogState, *entries) -> LogState:
    opens = [] if state.log else [Open(holder="w", classes=("x", "y"))]
    return fold(state, Record(term=1, nonce="n", at_unix_s=0.0, entries=(*opens, *entries)))


def labelled(start: int, stop: int) -> Commit:
    shard = ShardRef(key=f"shards/{start}", rows=stop - start, bytes=1, crc32=1)
    return Commit(start=start, stop=stop, shard=shard, teacher="t", teacher_s=0.0)


def ended(state: LogState, generation: int) -> LogState:
    """The end of a generation, after what is open was sealed."""
    first, stop = state.sealed_commits, len(state.commits)
    rows = sum(commit.shard.rows for commit in state.commits[first:stop])
    seals = [Seal(window=len(state.windows), first_commit=first, stop_commit=stop, rows=rows)] if rows else []
    return recorded(state, *seals, End(generation=generation))


def there(**versions: int) -> list[tuple[str, str, int]]:
    return [(f"{name}@{version}", name, 4 + version) for name, version in versions.items()]


def planned_of(state: LogState, parts: list[tuple[str, str, int]], generation: int = 1) -> LogState:
    return recorded(state, *source_change(state, parts, unit_rows=4, generation=generation).entries)


def test_a_part_that_changed_before_any_of_it_was_labelled_is_set_aside_and_planned_as_it_is_now():
    state = planned_of(LogState(), there(a=1, b=1))
    change = source_change(state, there(a=2, b=1), unit_rows=4, generation=1)
    assert change.superseded == (Quarantine(start=0, stop=5, reason=SUPERSEDED),)
    assert [(plan.part, plan.first, plan.rows) for plan in change.new] == [("a@2", 10, 6)]
    assert change.vanished == ()


def test_committed_rows_of_a_part_that_changed_stay():
    state = recorded(planned_of(LogState(), there(a=1)), labelled(1, 3))
    assert [(rows.start, rows.stop) for rows in source_change(state, there(a=2), unit_rows=4, generation=1).superseded] == [(0, 1), (3, 5)]
    done = recorded(planned_of(LogState(), there(a=1)), labelled(0, 5))
    assert source_change(done, there(a=2), unit_rows=4, generation=1).superseded == ()


def test_a_part_that_is_gone_without_a_successor_is_not_set_aside():
    state = recorded(planned_of(LogState(), there(a=1)), labelled(0, 2))
    change = source_change(state, there(b=1), unit_rows=4, generation=1)
    assert (change.vanished, change.superseded) == ((("a", 3),), ())


def test_of_parts_that_share_a_name_none_takes_the_place_of_another():
    pieces = [(f"piece {number}", "feed", 4) for number in range(3)]
    change = source_change(planned_of(LogState(), pieces), pieces[1:], unit_rows=4, generation=1)
    assert (change.vanished, change.superseded) == ((("feed", 4),), ())


def test_a_part_that_comes_back_as_it_was_is_work_again_in_its_old_place():
    state = planned_of(recorded(planned_of(LogState(), there(a=1)), labelled(0, 2)), there(a=2))
    change = source_change(state, there(a=1), unit_rows=4, generation=1)
    assert change.new == ()
    assert change.retried == (Retry(start=2, stop=5),)
    assert change.rows_superseded == 6
    state = planned_of(state, there(a=1))
    assert (state.rows_left, list(state.weightless())) == (3, [(5, 11)])


def test_labelled_rows_of_a_part_that_was_replaced_weigh_nothing_from_the_next_generation_on():
    state = ended(recorded(planned_of(LogState(), there(a=1, b=1)), labelled(0, 5), labelled(5, 10)), 1)
    change = source_change(state, there(a=2, b=1), unit_rows=4, generation=2)
    assert change.weighed == (Supersede(start=0, stop=5, generation=2),)
    state = recorded(state, *change.entries)
    assert [list(state.weightless(generation)) for generation in (1, 2, 3)] == [[], [(0, 5)], [(0, 5)]]


def test_what_an_open_generation_labelled_counts_in_it_to_its_end():
    state = ended(recorded(planned_of(LogState(), there(a=1)), labelled(0, 2)), 1)
    state = recorded(state, labelled(2, 4))
    state = planned_of(state, there(a=2), generation=2)
    assert [list(state.weightless(generation)) for generation in (1, 2, 3)] == [[], [(0, 2), (4, 5)], [(0, 5)]]


def test_while_its_successor_is_left_for_later_a_part_keeps_its_weight():
    state = ended(recorded(planned_of(LogState(), there(a=1)), labelled(0, 5)), 1)
    assert source_change(state, there(a=2), unit_rows=4, generation=2, shown=set()).entries == ()


def test_with_what_was_shown_nothing_else_is_new():
    change = source_change(LogState(), there(a=1, b=1), unit_rows=4, generation=1, shown={"b@1"})
    assert [(plan.part, plan.first) for plan in change.new] == [("b@1", 0)]


@given(looks=LOOKS)
def test_whatever_happens_to_files_what_is_there_is_planned_once_and_open_and_planning_again_changes_nothing(looks):
    state = LogState()
    for look in looks:
        parts = there(**look)
        state = planned_of(state, parts)
        again = source_change(state, parts, unit_rows=4, generation=1)
        assert again.entries == ()
        for part, _, rows in parts:
            wanted = [plan for plan in state.plans if plan.part == part]
            left = [run for plan in wanted for run in state.done.missing_from(plan.first, plan.first + plan.rows)]
            assert sum(stop - start for start, stop in left) == rows
        assert state.rows_left == sum(rows for _, _, rows in parts) + sum(rows for _, rows in again.vanished)


@given(looks=LOOKS, labelling=st.randoms(use_true_random=False))
def test_each_generation_replays_what_was_there_when_it_was_planned_and_never_sees_another_weight(looks, labelling):
    state, seen = LogState(), dict[int, list[tuple[int, int]]]()
    for generation, look in enumerate(looks, start=1):
        for version in (look, look if labelling.random() < 0.5 else labelling.choice(looks)):  # the folder may change meanwhile
            state = planned_of(state, there(**version), generation)
            for plan in state.plans:
                for start, stop in state.done.missing_from(plan.first, plan.first + plan.rows)[: labelling.randint(0, 1)]:
                    state = recorded(state, labelled(start, stop))
        parts, own = there(**version), {row for commit in state.commits_of(generation) for row in range(commit.start, commit.stop)}
        state = ended(state, generation)
        seen[generation] = list(state.weightless(generation))
        names, identities = {name for _, name, _ in parts}, {identity for identity, _, _ in parts}
        for plan in state.plans:
            if plan.name in names:
                for row in set(range(plan.first, plan.first + plan.rows)) - own:
                    assert state.weightless(generation).overlaps(row, row + 1) == (plan.part not in identities)
        assert {older: list(state.weightless(older)) for older in seen} == seen
