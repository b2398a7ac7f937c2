"""The device's state machine: pure, so every order of events can be tried."""

import json
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.releases.target import ReleaseTarget, TargetInvalidError, target_path
from pipeline.rollout import device, heard, incumbent
from pipeline.rollout.device import (
    MAX_REPORTS,
    RESTING,
    TRIES,
    AssignmentRolledBackError,
    DeviceRecord,
    Installed,
    Machine,
    Shadow,
    State,
    Wanted,
    WrongStepError,
)
from pipeline.rollout.device_file import RecordInvalidError, begin_anew, from_json, held_to_json, to_json

MACHINE = Machine(hardware="linux-x86_64", free_disk_bytes=1 << 30, free_memory_bytes=1 << 30)
EVIDENCE = Shadow(
    samples=3, agreed=3, latency_p50_ms=1, latency_p99_ms=2, incumbent_latency_p50_ms=1, memory_bytes=1 << 20, golden_only=True
)


def release(number: int = 1, **changes: object) -> ReleaseTarget:
    fields = {
        "path": target_path("small", number), "digest": f"{number:064x}", "length": 1000, "student": "small", "release": number,
        "generation": number, "security_floor": 0, "memory_bytes": 1000, **changes,
    }  # fmt: skip
    return ReleaseTarget(**fields)  # type: ignore[arg-type]


def wanted(generation: int, number: int = 1) -> Wanted:
    return Wanted(generation=generation, target=target_path("small", number), digest=f"{number:064x}")


def checked(record: DeviceRecord, target: ReleaseTarget | None, machine: Machine = MACHINE) -> DeviceRecord:
    return device.check(record, target, machine)


def installed(record: DeviceRecord, generation: int, number: int, **changes: object) -> DeviceRecord:
    record = checked(device.assign(record, wanted(generation, number)), release(number, **changes))
    record = device.begin_try(device.staged(device.downloaded(record, way="whole")))
    if record.state is State.SHADOW:
        record = device.begin_try(device.shadowed(record, EVIDENCE))
    return device.confirm(record)


NEW = DeviceRecord(incarnation=1)


def test_a_first_install_goes_to_trial_and_says_that_shadow_was_skipped() -> None:
    record = installed(NEW, 1, 1)
    assert [r.state for r in record.reports] == ["CHECK", "DOWNLOAD", "VERIFY", "STAGED", "TRIAL", "CONFIRMED"]
    assert record.reports[4].detail == "no incumbent: shadow skipped"
    assert record.incumbent == Installed(digest=release(1).digest, student="small", release=1)


def test_an_update_is_shadowed_first_and_keeps_the_incumbent_for_the_way_back() -> None:
    record = installed(installed(NEW, 1, 1), 2, 2)
    states = [r.state for r in record.reports if r.generation == 2]
    assert states == ["CHECK", "DOWNLOAD", "VERIFY", "STAGED", "SHADOW", "TRIAL", "CONFIRMED"]
    assert [r.shadow for r in record.reports if r.state is State.TRIAL][1] == EVIDENCE
    assert record.previous is not None
    assert record.digests == {release(1).digest, release(2).digest}


def test_an_assignment_with_a_lower_generation_is_refused() -> None:
    record = device.assign(NEW, wanted(5))
    with pytest.raises(AssignmentRolledBackError):
        device.assign(record, wanted(4))


def test_the_same_generation_with_other_content_is_refused() -> None:
    record = device.assign(NEW, wanted(5, 1))
    with pytest.raises(AssignmentRolledBackError):
        device.assign(record, wanted(5, 2))
    assert device.assign(record, wanted(5, 1)) is record


def test_an_assignment_of_what_runs_is_confirmed_without_an_install() -> None:
    record = device.assign(installed(NEW, 1, 1), wanted(2, 1))
    assert (record.state, record.reports[-1].generation, record.reports[-1].detail) == (State.CONFIRMED, 2, "already running")


def test_a_rollback_is_a_higher_generation_of_an_older_release_but_never_below_its_floor() -> None:
    record = installed(installed(NEW, 1, 1), 2, 2)
    assert installed(record, 3, 1).incumbent == Installed(digest=release(1).digest, student="small", release=1)
    fixed = installed(record, 3, 3, security_floor=3)
    refused = checked(device.assign(fixed, wanted(4, 2)), release(2))
    assert (refused.state, refused.code) == (State.FAILED, "below_security_floor")


@pytest.mark.parametrize(
    ("target", "machine", "state", "code"),
    [
        (None, MACHINE, State.FAILED, "unknown_release"),
        (release(1, digest="f" * 64), MACHINE, State.FAILED, "digest_not_signed"),
        (release(1, hardware=("linux-aarch64",)), MACHINE, State.INCOMPATIBLE, "hardware"),
        (release(1), replace(MACHINE, free_memory_bytes=10), State.INCOMPATIBLE, "memory"),
        (release(1, runtime="1.24"), replace(MACHINE, runtime="1.23.2"), State.INCOMPATIBLE, "runtime"),
        (release(1, runtime="1.9"), replace(MACHINE, runtime=""), State.INCOMPATIBLE, "runtime"),
        (release(1), replace(MACHINE, free_disk_bytes=2999), State.FAILED, "no_space"),
    ],
)
def test_what_cannot_be_installed_is_known_before_the_download(
    target: ReleaseTarget | None, machine: Machine, state: State, code: str
) -> None:
    record = checked(device.assign(NEW, wanted(1)), target, machine)
    assert (record.state, record.code) == (state, code)


@pytest.mark.parametrize(("needs", "has"), [("", ""), ("1.9", "1.23.2"), ("1.23", "1.23"), ("1.23.1", "1.23.2rc1")])
def test_a_runtime_that_is_new_enough_is_compatible(needs: str, has: str) -> None:
    record = checked(device.assign(NEW, wanted(1)), release(1, runtime=needs), replace(MACHINE, runtime=has))
    assert record.state is State.DOWNLOAD


def test_the_runtime_that_a_release_needs_is_signed_and_is_a_version() -> None:
    target = release(1, runtime="1.23")
    assert ReleaseTarget.from_tuf(target.to_tuf()) == target
    with pytest.raises(TargetInvalidError, match="runtime"):
        release(1, runtime="new")


def test_the_byte_budget_is_of_one_assignment() -> None:
    record = checked(device.assign(NEW, wanted(1)), release())
    record = device.fetched(device.begin_download(record), 2999)
    assert device.begin_download(record) is record
    spent = device.begin_download(device.fetched(record, 1))
    assert (spent.state, spent.code) == (State.FAILED, "byte_budget")
    assert checked(device.assign(spent, wanted(2)), release()).fetched_bytes == 0


def test_each_try_is_counted_before_it_and_the_last_one_ends_it() -> None:
    record = checked(device.assign(NEW, wanted(1)), release())
    record = device.staged(device.downloaded(record, way="whole"))
    for left in range(TRIES - 1, -1, -1):
        record = device.begin_try(record)
        assert (record.state, record.tries_left) == (State.TRIAL, left)
    record = device.begin_try(record)
    assert (record.state, record.code) == (State.FAILED, "tries_spent")


def test_a_trial_that_fails_goes_back_to_the_incumbent_and_a_first_one_just_fails() -> None:
    first = device.begin_try(device.staged(device.downloaded(checked(device.assign(NEW, wanted(1)), release()), way="whole")))
    assert device.fail(first, "model_died", "").state is State.FAILED
    record = installed(NEW, 1, 1)
    record = device.staged(device.downloaded(checked(device.assign(record, wanted(2, 2)), release(2)), way="whole"))
    record = device.begin_try(device.shadowed(device.begin_try(record), EVIDENCE))
    back = device.fail(record, "model_died", "it did")
    assert (back.state, back.incumbent) == (State.ROLLED_BACK, record.incumbent)


def test_an_incumbent_that_cannot_run_gives_way_to_the_previous_one_unless_that_is_below_the_floor() -> None:
    record = installed(installed(NEW, 1, 1), 2, 2)
    back = device.lose_incumbent(record, "slot_corrupt", "")
    assert back.state is State.ROLLED_BACK
    assert back.incumbent == Installed(digest=release(1).digest, student="small", release=1)
    assert device.assign(back, wanted(2, 2)) is back, "no flapping: the same assignment does not try again"
    floored = installed(installed(NEW, 1, 1), 2, 2, security_floor=2)
    empty = device.lose_incumbent(floored, "slot_corrupt", "")
    assert (empty.state, empty.incumbent) == (State.IDLE, None)
    assert device.assign(empty, wanted(2, 2)).state is State.CHECK, "nothing runs: install it again"


def test_acknowledged_reports_go_and_those_of_another_incarnation_stay() -> None:
    record = installed(NEW, 1, 1)
    assert heard.acknowledge(record, 2, 99) is record
    assert [r.sequence for r in heard.acknowledge(record, 1, 4).reports] == [5, 6]


def test_the_report_queue_is_bounded_and_sheds_steps_before_outcomes() -> None:
    record = NEW
    for generation in range(1, MAX_REPORTS):
        record = checked(device.assign(record, wanted(generation)), None)
    assert len(record.reports) == MAX_REPORTS
    assert all(r.state is State.FAILED for r in record.reports[:-2])


def test_a_step_in_the_wrong_state_is_a_bug_that_says_so() -> None:
    for step in (partial(device.downloaded, way="whole"), device.staged, device.begin_try, device.confirm):
        with pytest.raises(WrongStepError):
            step(NEW)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1}', b"\xff"])
def test_a_record_that_does_not_read_is_told(data: bytes) -> None:
    with pytest.raises(RecordInvalidError) as told:
        from_json(data)
    assert ("update kdpipe" in str(told.value)) == (b'"version": 2' in data), "rot is no newer version"
    with pytest.raises(RecordInvalidError):
        begin_anew(data, incarnation=1)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_signed_time_never_falls(first: int, second: int) -> None:
    assert heard.learn_time(heard.learn_time(NEW, first), second).signed_unix_s == max(first, second)


class AnyOrder(RuleBasedStateMachine):
    """Assignments, steps, faults and kills in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.record = NEW
        self.confirmed: set[str] = set()
        self.top = 0

    @rule(number=st.integers(1, 4), jump=st.integers(0, 2))
    def assign(self, number: int, jump: int) -> None:
        try:
            self.record = device.assign(self.record, wanted(max(1, self.record.generation + jump), number))
        except AssignmentRolledBackError:
            assert jump == 0

    @precondition(lambda self: self.record.state is State.CHECK)
    @rule(floor=st.integers(0, 4), signed=st.booleans())
    def check(self, floor: int, signed: bool) -> None:
        number = int(self.record.wanted.digest, 16) if self.record.wanted else 0
        self.record = checked(self.record, release(number, security_floor=min(floor, number)) if signed else None)

    @precondition(lambda self: self.record.state in (State.DOWNLOAD, State.VERIFY))
    @rule()
    def step(self) -> None:
        self.record = device.downloaded(self.record, way="whole") if self.record.state is State.DOWNLOAD else device.staged(self.record)

    @precondition(lambda self: self.record.state in (State.STAGED, State.SHADOW, State.TRIAL))
    @rule(passes=st.sampled_from(["passes", "fails", "killed", "stopped"]))
    def candidate(self, passes: str) -> None:
        before = self.record
        self.record = device.begin_try(self.record)
        if self.record.state in RESTING or passes == "killed":
            return
        if passes == "stopped":
            self.record = device.give_back_try(self.record)
            assert self.record.tries_left == (TRIES if before.state is State.STAGED else before.tries_left)
            return
        if passes == "fails":
            self.record = device.fail(self.record, "model_died", "")
        elif self.record.state is State.SHADOW:
            self.record = device.shadowed(self.record, EVIDENCE)
        else:
            self.record = device.confirm(self.record)
            assert self.record.incumbent is not None
            self.confirmed.add(self.record.incumbent.digest)

    @precondition(lambda self: self.record.incumbent is not None)
    @rule()
    def rot(self) -> None:
        self.record = device.lose_incumbent(self.record, "slot_corrupt", "")

    @precondition(lambda self: self.record.incumbent is not None)
    @rule(comes_up=st.booleans())
    def boot(self, comes_up: bool) -> None:
        self.record = incumbent.begin_boot(self.record)
        assert self.record.incumbent is not None, "a slot that is whole is never given up for nothing"
        if comes_up:
            self.record = incumbent.booted(self.record)

    @rule()
    def restart(self) -> None:
        self.record = from_json(to_json(self.record))

    @rule()
    def lose_the_record(self) -> None:
        self.record, self.top = begin_anew(held_to_json(self.record), incarnation=self.record.incarnation + 1), 0

    @invariant()
    def only_confirmed_releases_answer(self) -> None:
        for slot in (self.record.incumbent, self.record.previous):
            assert slot is None or slot.digest in self.confirmed
        if self.record.incumbent is not None:
            assert self.record.incumbent.release >= self.record.floors.get("small", 0)

    @invariant()
    def generations_and_reports_only_grow(self) -> None:
        assert self.record.generation >= self.top
        self.top = self.record.generation
        sequences = [r.sequence for r in self.record.reports]
        assert sequences == sorted(set(sequences))
        assert len(self.record.digests) <= 3


TestAnyOrder = AnyOrder.TestCase


def test_a_record_of_before_arrivals_were_kept_reads() -> None:
    tree = json.loads(to_json(installed(NEW, 1, 1)))
    assert tree.pop("arrival")["way"] == "whole"
    assert from_json(json.dumps(tree).encode()).arrival is None


@pytest.mark.parametrize(
    ("samples", "agreed", "floor_percent", "is_refused"),
    [(37, 8, 50, True), (37, 9, 50, False), (5, 0, 50, False), (0, 0, 100, False), (64, 0, 0, False), (64, 63, 100, True)],
)
def test_a_candidate_is_refused_only_where_it_surely_agrees_too_rarely(
    samples: int, agreed: int, floor_percent: int, is_refused: bool
) -> None:
    found = device.disagreement(replace(EVIDENCE, samples=samples, agreed=agreed), floor_percent)
    assert (found is not None) is is_refused
