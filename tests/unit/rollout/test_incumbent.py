"""What becomes of the release that answers when it does not: pure, over the record."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.rollout import device, incumbent
from pipeline.rollout.device import MAX_REINSTALLS, DeviceRecord, Installed, State, Wanted
from pipeline.rollout.device_file import begin_anew, held_to_json
from pipeline.rollout.incumbent import BOOT_TRIES, NO_WAY_BACK

ONE = Installed(digest="1" * 64, student="small", release=1)
TWO = Installed(digest="2" * 64, student="small", release=2)
WANTED = Wanted(generation=1, target="releases/small-000001.kdpb", digest=ONE.digest)
ALONE = DeviceRecord(incarnation=1, generation=1, wanted=WANTED, state=State.CONFIRMED, incumbent=ONE)
UPDATED = replace(ALONE, incumbent=TWO, previous=ONE)


def test_starts_that_never_end_are_counted_and_the_release_before_gets_its_turn() -> None:
    record = UPDATED
    for _ in range(BOOT_TRIES):
        record = incumbent.begin_boot(record)
        assert record.incumbent == TWO
    record = incumbent.begin_boot(record)
    assert (record.incumbent, record.boots, record.state) == (ONE, 1, State.ROLLED_BACK)


def test_a_start_that_ends_well_makes_those_before_it_forgotten() -> None:
    record = UPDATED
    for _ in range(5 * BOOT_TRIES):
        record = incumbent.booted(incumbent.begin_boot(record))
    assert record == UPDATED


def test_the_last_release_is_never_given_up_for_dying_and_says_so_once() -> None:
    record = incumbent.doubt_incumbent(ALONE, "model_keeps_dying", "again")
    assert (record.state, record.code, record.incumbent) == (State.FAILED, NO_WAY_BACK, ONE)
    assert "model_keeps_dying: again" in record.detail
    assert incumbent.doubt_incumbent(record, "incumbent_does_not_start", "") is record
    assert device.assign(record, WANTED) is record, "the same bytes again would do the same"


def test_a_release_under_way_is_left_alone_where_the_incumbent_dies() -> None:
    under_way = device.assign(ALONE, replace(WANTED, generation=2, digest=TWO.digest))
    assert incumbent.doubt_incumbent(under_way, "model_keeps_dying", "") is under_way


def test_a_previous_release_below_the_floor_does_not_come_back() -> None:
    record = incumbent.doubt_incumbent(replace(UPDATED, floors={"small": 2}), "model_keeps_dying", "")
    assert (record.state, record.incumbent) == (State.FAILED, TWO)


def test_a_slot_that_is_lost_again_and_again_is_not_installed_for_ever() -> None:
    record = ALONE
    for _ in range(MAX_REINSTALLS):
        record = device.assign(device.lose_incumbent(record, "slot_corrupt", ""), WANTED)
        assert record.state is State.CHECK
        record = replace(record, state=State.CONFIRMED, incumbent=ONE)
    record = device.assign(device.lose_incumbent(record, "slot_corrupt", ""), WANTED)
    assert (record.state, record.code) == (State.FAILED, "slot_keeps_rotting")
    assert device.assign(record, WANTED) is record
    assert device.assign(record, replace(WANTED, generation=2)).state is State.CHECK


def test_the_generation_of_another_name_holds_nothing_back() -> None:
    """The device was enrolled anew: its new name begins at 1 again, also with the very same release."""
    old = device.assign(replace(ALONE, generation=0, wanted=None), replace(WANTED, generation=7), owner="d-1")
    new = device.assign(old, WANTED, owner="d-2")
    assert (new.generation, new.owner, new.state) == (1, "d-2", State.CONFIRMED)
    again = device.assign(replace(new, owner="d-1"), WANTED, owner="d-2")
    assert again.sequence == new.sequence + 1, "it is confirmed under the new name, too"


digests = st.text("0123456789abcdef", min_size=64, max_size=64)
held = st.none() | st.builds(Installed, digest=digests, student=st.text(), release=st.integers(0))


@given(held, held, st.dictionaries(st.text(), st.integers(0)))
def test_what_is_held_outlives_the_record(now: Installed | None, before: Installed | None, floors: dict[str, int]) -> None:
    record = replace(ALONE, incumbent=now, previous=before, floors=floors)
    assert begin_anew(held_to_json(record), incarnation=9) == DeviceRecord(incarnation=9, incumbent=now, previous=before, floors=floors)
