"""What devices say is applied once and in order, whatever order and however often it arrives."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rollout.evidence import Progress
from workers.orchestrator import reports
from workers.orchestrator.reports import BodyRefusedError, Claims, DeviceReport, check_claims, check_report, claim, take
from workers.orchestrator.roster import DeviceRow

DIGEST = "b" * 64
ROW = DeviceRow(device_id="d-1", population="mail", hardware="x86", generation=3, target="releases/small-000001.kdpb", digest=DIGEST)


def report(sequence: int, state: int, *, incarnation: int = 1, generation: int = 3, digest: str = DIGEST, code: str = "") -> DeviceReport:
    return DeviceReport(incarnation=incarnation, sequence=sequence, generation=generation, digest=digest, state=state, failure_code=code)


def test_a_replayed_report_changes_nothing() -> None:
    confirmed, _ = take(ROW, [report(1, reports.TRIAL), report(2, reports.CONFIRMED)], now=1.0)
    again, fresh = take(confirmed, [report(1, reports.TRIAL), report(2, reports.FAILED)], now=2.0)
    assert again is confirmed
    assert fresh == []


def test_a_report_of_an_older_incarnation_changes_nothing() -> None:
    row, _ = take(ROW, [report(1, reports.CONFIRMED, incarnation=2)], now=1.0)
    assert take(row, [report(99, reports.FAILED, incarnation=1)], now=2.0) == (row, [])


def test_a_newer_incarnation_counts_from_one_again() -> None:
    row, _ = take(ROW, [report(50, reports.CHECK)], now=1.0)
    row, fresh = take(row, [report(1, reports.CONFIRMED, incarnation=2)], now=2.0)
    assert (row.incarnation, row.sequence, len(fresh)) == (2, 1, 1)


@pytest.mark.parametrize("changes", [{"generation": 2}, {"generation": 4}, {"digest": "c" * 64}, {"digest": ""}])
def test_a_report_about_another_assignment_proves_nothing(changes: dict[str, object]) -> None:
    row, fresh = take(ROW, [report(1, reports.CONFIRMED, **changes)], now=1.0)  # type: ignore[arg-type]  # a test changes what it likes
    assert row.progress == Progress.SILENT
    assert len(fresh) == 1, "it is kept and acknowledged all the same"


def test_a_failure_stays_until_the_next_assignment() -> None:
    row, _ = take(ROW, [report(1, reports.FAILED, code="no_space"), report(2, reports.CONFIRMED)], now=1.0)
    assert (row.progress, row.failure_code) == (Progress.FAILED, "no_space")


def test_a_confirmed_device_that_lost_its_release_has_failed() -> None:
    row, _ = take(ROW, [report(1, reports.CONFIRMED), report(2, reports.IDLE, code="slot_corrupt")], now=1.0)
    assert row.progress == Progress.FAILED


states = st.sampled_from(range(1, 12))
sequences = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), states), max_size=12, unique_by=lambda found: found[:2])


@given(sequences, st.data())
def test_repeats_and_splits_in_order_end_in_the_same_state(said: list[tuple[int, int, int]], data: st.DataObject) -> None:
    ordered = [report(sequence, state, incarnation=incarnation) for incarnation, sequence, state in sorted(said)]
    at_once, _ = take(ROW, ordered, now=1.0)
    cut = data.draw(st.integers(0, len(ordered)))
    back = data.draw(st.integers(0, cut))
    row, first = take(ROW, ordered[:cut], now=1.0)
    row, second = take(row, ordered[back:], now=1.0)
    assert row == at_once
    assert first + second == ordered, "each is new exactly once"


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("x\0y", "x y"),
        ("\x1b[31mred\r\n", " [31mred  "),
        ("\u202efdp.exe\ud800", " fdp.exe "),
        ("caf\u00e9, 70 %", "caf\u00e9, 70 %"),
        ("x" * 501, "x" * 500),
    ],
)
def test_what_no_database_takes_and_what_steers_a_terminal_is_not_kept(told: str, kept: str) -> None:
    assert check_report(replace(report(1, reports.CHECK), detail=told)).detail == kept


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("incarnation", 0), ("sequence", 0), ("sequence", 2**63), ("generation", 2**63), ("state", 0), ("state", -1),
        ("digest", "zz"), ("digest", "B" * 64), ("failure_code", "x" * 65), ("failure_code", "a b\n"),
    ],
)  # fmt: skip
def test_a_report_that_no_agent_sends_is_refused(field: str, value: object) -> None:
    values: dict[str, object] = {"incarnation": 1, "sequence": 1, "generation": 1, "digest": DIGEST, "state": 2, field: value}
    with pytest.raises(BodyRefusedError, match=field if field != "sequence" or value else "from 1"):
        check_report(DeviceReport(**values))  # type: ignore[arg-type]  # as above


def test_a_state_that_only_a_newer_agent_knows_says_that_it_is_at_work() -> None:
    newer = check_report(DeviceReport(incarnation=1, sequence=1, generation=ROW.generation, digest=DIGEST, state=12))
    row, taken = take(ROW, [newer], now=1.0)
    assert len(taken) == 1, "acknowledged, or the device would say it for ever and nothing after it"
    assert (row.state, row.progress) == (reports.UNKNOWN, Progress.WORKING)


def test_long_free_text_is_cut() -> None:
    assert len(check_report(DeviceReport(incarnation=1, sequence=1, generation=1, digest="", state=2, detail="x" * 9999)).detail) == 500


def test_claims_that_say_nothing_new_leave_the_row_as_it_is() -> None:
    said = Claims(running_digest="", generation=0, hardware="x86", agent_version="", clock_wrong=False)
    assert claim(ROW, check_claims(said)) is ROW


def test_a_generation_that_a_device_once_accepted_is_never_forgotten() -> None:
    high = claim(ROW, Claims(running_digest="", generation=9, hardware="", agent_version="", clock_wrong=False))
    low = claim(high, Claims(running_digest="", generation=2, hardware="", agent_version="", clock_wrong=False))
    assert low.device_generation == 9
    assert low.hardware == "x86"


@pytest.mark.parametrize("hardware", ["a b", "-x", "x" * 42, "é"])
def test_a_hardware_class_that_is_no_name_is_refused(hardware: str) -> None:
    with pytest.raises(BodyRefusedError, match="hardware_class"):
        check_claims(Claims(running_digest="", generation=0, hardware=hardware, agent_version="", clock_wrong=False))
