"""Leases: each row is settled or given up exactly once, whoever fails."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.ledger import Ledger
from pipeline.labels.sealing import OpenWindow, is_due

LEASE_S = 10.0


def ledger_of(units: int = 4, rows: int = 8) -> Ledger:
    return Ledger([(unit * rows, unit * rows + rows) for unit in range(units)], seed=1, lease_s=LEASE_S)


def test_units_are_leased_once_in_an_order_drawn_from_the_seed():
    def order(seed: int) -> list[int]:
        ledger = Ledger([(unit, unit + 1) for unit in range(50)], seed=seed, lease_s=LEASE_S)
        leases = [ledger.lease("w", now_s=0) for _ in range(51)]
        assert leases.pop() is None
        return [lease.unit.start for lease in leases if lease]

    assert sorted(order(1)) == list(range(50))
    assert order(1) == order(1) != order(2)
    assert order(1) != sorted(order(1))


def test_a_settled_lease_is_settled_once_and_a_fenced_one_never():
    ledger = ledger_of(1)
    first = ledger.lease("a", now_s=0)
    assert first
    assert ledger.lose("a", "died") == []
    again = ledger.lease("b", now_s=0)
    assert again
    assert ledger.settle(first.number) is None, "the result of a lost attempt is refused"
    assert ledger.settle(again.number) == again
    assert ledger.settle(again.number) is None
    assert ledger.empty


def test_a_lease_that_runs_out_is_found_and_fenced_by_losing_its_worker():
    ledger = ledger_of(2)
    slow, fast = ledger.lease("slow", now_s=0), ledger.lease("fast", now_s=5)
    assert slow
    assert fast
    assert ledger.expired(now_s=9.9) == []
    assert ledger.expired(now_s=10) == [slow]
    ledger.lose("slow", "hung")
    assert ledger.settle(slow.number) is None
    assert ledger.settle(fast.number) == fast
    assert ledger.units_waiting == 1


def test_a_unit_that_failed_is_tried_with_nothing_else_in_flight():
    ledger = ledger_of(1)
    first = ledger.lease("a", now_s=0)
    assert first
    ledger.fail(first.number, "no")
    ledger._waiting.extend(ledger_of(2)._waiting)
    suspect = ledger.lease("a", now_s=0)
    assert suspect
    assert suspect.unit.failures == 1
    assert ledger.lease("a", now_s=0) is None, "its worker gets nothing beside it"
    assert ledger.lease("b", now_s=0) is not None
    ledger.fail(suspect.number, "no")
    ledger._waiting.rotate(2)
    assert ledger.lease("b", now_s=0) is None, "a worker that has something does not get it"
    assert ledger.lease("c", now_s=0) is not None


def test_work_that_is_put_back_is_next_and_blameless():
    ledger = ledger_of(3)
    first = ledger.lease("a", now_s=0)
    assert first
    ledger.put_back(first.number)
    again = ledger.lease("a", now_s=0)
    assert again
    assert again.unit == first.unit


@given(poison=st.sets(st.integers(0, 39), max_size=5), seed=st.integers(0, 9), deaths=st.lists(st.integers(0, 200), max_size=4))
def test_rows_that_kill_their_worker_are_isolated_and_all_others_are_labelled(poison, seed, deaths):
    """Two workers with two units each; a unit with a poisoned row kills its worker; some die of other causes, but not twice in a row."""
    ledger = Ledger([(start, start + 8) for start in range(0, 40, 8)], seed=seed, lease_s=LEASE_S)
    settled: list[int] = []
    given_up: list[int] = []
    turn = 0
    while not ledger.empty:
        worker = f"w{turn % 2}"
        for _ in range(2):
            ledger.lease(worker, now_s=0)
        held = [lease for lease in ledger.leases if lease.worker == worker]
        if held:
            unit = held[0].unit
            died_by_chance = turn in deaths and not unit.failures
            if died_by_chance or poison & set(range(unit.start, unit.stop)):
                given_up += [row for bad in ledger.lose(worker, "died") for row in range(bad.start, bad.stop)]
            else:
                assert ledger.settle(held[0].number)
                settled += range(unit.start, unit.stop)
        turn += 1
        assert turn < 2000
    assert sorted(settled + given_up) == list(range(40)), "each row exactly once"
    assert set(given_up) == poison


def test_a_unit_that_cannot_be_read_is_given_up_as_a_whole_after_another_try():
    ledger = ledger_of(1)
    for expected in (None, (0, 8)):
        lease = ledger.lease("a", now_s=0)
        assert lease
        given_up = ledger.fail(lease.number, "EIO", divisible=False)
        assert (given_up and (given_up.start, given_up.stop)) == expected
    assert ledger.empty


def due(shards: int, *, rows: int = 10, age_s: float = 0.0, before: int = 9, **what: bool) -> bool:
    facts = {"starved": False, "lead_used_up": False, "ending": False} | what
    return is_due(OpenWindow(shards=shards, rows=rows, age_s=age_s), windows_before=before, window_rows=1000, **facts)


def test_windows_grow_by_doubling_up_to_their_size():
    assert [next(shards for shards in range(1, 99) if due(shards, before=before)) for before in range(5)] == [1, 2, 4, 8, 16]
    assert due(3, rows=1000, before=9)
    assert not due(3, rows=999, before=9)


def test_a_window_is_closed_early_for_a_starved_student_a_used_up_lead_and_the_end():
    assert not due(1)
    assert not due(1, starved=True, age_s=0.29)
    assert due(1, starved=True, age_s=0.3)
    assert due(1, lead_used_up=True)
    assert due(1, ending=True)
    assert not due(0, starved=True, age_s=9, lead_used_up=True, ending=True), "never an empty window"


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    taken=st.integers(0, 12),
    rows=st.integers(1, 40),
    border=st.integers(0, 270),
    seed=st.integers(0, 9),
)
def test_joined_units_cover_the_same_rows_within_size_and_part_and_leave_what_failed_alone(sizes, taken, rows, border, seed):
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    units = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    ledger = Ledger(units, seed=seed, lease_s=LEASE_S)
    failed = None
    for turn in range(taken):
        lease = ledger.lease(f"w{turn}", now_s=0)
        if lease and turn == 0:
            failed = lease.unit
            ledger.fail(lease.number, "no")
    waiting = {row for unit in ledger._waiting for row in range(unit.start, unit.stop)}
    ledger.merge(rows, part=lambda start: start >= border)
    joined = list(ledger._waiting)
    assert sorted(row for unit in joined for row in range(unit.start, unit.stop)) == sorted(waiting)
    for unit in joined:
        was_one = (unit.start, unit.stop) in units
        assert was_one or (unit.stop - unit.start <= rows and (unit.start >= border or unit.stop <= border or unit.failures == 0))
        inside = [start for start, _ in units if unit.start <= start < unit.stop]
        assert len({start >= border for start in inside}) == 1
    if failed and taken <= len(sizes):
        assert any(
            (unit.start, unit.stop, unit.failures) == (failed.start, failed.stop, 1)
            for unit in joined + [lease.unit for lease in ledger.leases]
        )


def test_units_of_a_part_that_must_be_decoded_go_to_the_worker_that_has_it_and_to_others_at_the_end():
    units = [(start, start + 5) for start in range(0, 200, 5)]
    ledger = Ledger(units, seed=2, lease_s=LEASE_S, decoded=lambda start: f"part {start // 50}")
    had: dict[str, list[str]] = {"a": [], "b": []}
    turn = 0
    while not ledger.empty:
        worker = "ab"[turn % 2]
        for done in [lease for lease in ledger.leases if lease.worker == worker][:1]:
            ledger.settle(done.number)
        for _ in range(2):
            if lease := ledger.lease(worker, now_s=0):
                had[worker].append(f"part {lease.unit.start // 50}")
        turn += 1
    assert sum(len(parts) for parts in had.values()) == len(units)
    assert len(set(had["a"][:15])) == len(set(had["b"][:15])) == 2, "each has its own parts"
    assert not set(had["a"][:15]) & set(had["b"][:15])
    assert len(set(had["a"][:6])) == 2, "and is given them mixed"


def test_parts_of_a_worker_that_is_gone_are_anybodys():
    ledger = Ledger(
        [(start, start + 5) for start in range(0, 100, 5)], seed=2, lease_s=LEASE_S, decoded=lambda start: f"part {start // 50}"
    )
    for _ in range(2):
        assert ledger.lease("gone", now_s=0)
    ledger.lose("gone", "died")
    first = ledger._waiting[0]
    lease = ledger.lease("new", now_s=0)
    assert lease
    assert lease.unit == first


@given(length=st.integers(1, 400), rows=st.integers(0, 500))
def test_a_unit_that_is_divided_is_next_in_parts_that_fit_and_no_row_is_lost(length, rows):
    ledger = Ledger([(7, 7 + length), (1000, 1008)], seed=1, lease_s=LEASE_S)
    while (lease := ledger.lease("a", now_s=0)) and lease.unit.start != 7:
        ledger.settle(lease.number)
    assert lease
    ledger.divide(lease.number, rows)
    assert ledger.settle(lease.number) is None, "what was divided can't be committed as a whole"
    ledger.divide(lease.number, rows)
    parts = list[tuple[int, int]]()
    while sum(stop - start for start, stop in parts) < length:
        part = ledger.lease("a", now_s=0)
        assert part
        parts.append((part.unit.start, part.unit.stop))
        assert part.unit.failures == 0
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(7, 7 + length))
    assert max(stop - start for start, stop in parts) <= max(rows, 1)
