"""A log that somebody altered, thinned, moved or cut: the first bad entry is named, and a cut tail shows against the head seen last."""

from dataclasses import replace

import pytest

from pipeline.rollout.audit import Head, RolloutLogTruncatedError, audit, head_of
from pipeline.rollout.events import Event, EventKind, RolloutLogBrokenError, follow, stored_event
from tests.kit.fleets import approved


@pytest.fixture(name="log")
def _log() -> list[Event]:
    fleet = approved()
    fleet.settle()
    return fleet.log


def rewritten(log: list[Event], position: int) -> list[Event]:
    """The log from `position` (from 0) on written anew by somebody who can hash: other facts, a chain that holds."""
    made = log[:position]
    for event in log[position:]:
        facts = {**event.facts, "reason": "nothing happened"} if "reason" in event.facts else event.facts
        made.append(follow(sequence=event.sequence, previous=made[-1].hash, at_s=event.at_s, kind=event.kind, facts=facts))
    return made


def test_an_untouched_log_gives_the_state_and_the_head(log: list[Event]) -> None:
    rollout = audit("r1", log)
    assert rollout.state == "completed"
    assert head_of(rollout) == Head(sequence=len(log), hash=log[-1].hash)
    assert audit("r1", log, known=head_of(rollout)) == rollout


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("change", ["facts", "time", "kind", "hash"])
def test_an_altered_entry_is_the_one_that_is_named(log: list[Event], position: int, change: str) -> None:
    event = log[position]
    log[position] = {
        "facts": replace(event, facts={**event.facts, "devices": ["d-evil"]}),
        "time": replace(event, at_s=event.at_s + 1),
        "kind": replace(event, kind=EventKind.PAUSED),
        "hash": replace(event, hash="f" * 64),
    }[change]
    with pytest.raises(RolloutLogBrokenError, match=f"event {position + 1} "):
        audit("r1", log)


@pytest.mark.parametrize("position", [1, 3])
def test_where_an_entry_is_gone_the_next_one_is_named(log: list[Event], position: int) -> None:
    del log[position]
    with pytest.raises(RolloutLogBrokenError, match=f"event {position + 1} "):
        audit("r1", log)


def test_entries_that_changed_places_are_named(log: list[Event]) -> None:
    log[2], log[3] = log[3], log[2]
    with pytest.raises(RolloutLogBrokenError, match="event 3 "):
        audit("r1", log)


def test_an_entry_that_does_not_even_read_is_named() -> None:
    for kind, facts in (("created", "{"), ("no_such_kind", "{}")):
        with pytest.raises(RolloutLogBrokenError, match="event 4 "):
            stored_event("r1", sequence=4, at_s=1.0, kind=kind, facts=facts, hash="a" * 64)


def test_a_cut_tail_is_a_good_chain_and_shows_against_the_head_seen_last(log: list[Event]) -> None:
    known = head_of(audit("r1", log))
    cut = log[:-2]
    audit("r1", cut)
    with pytest.raises(RolloutLogTruncatedError, match=f"ends at event {len(cut)}; expected event {len(log)}"):
        audit("r1", cut, known=known)


def test_a_log_written_anew_is_a_good_chain_and_shows_against_the_head_seen_last(log: list[Event]) -> None:
    known = head_of(audit("r1", log))
    forged = rewritten(log, 3)
    audit("r1", forged)
    with pytest.raises(RolloutLogTruncatedError, match=f"event {len(log)} is another one"):
        audit("r1", forged, known=known)


def test_a_log_that_was_emptied_shows_against_the_head_seen_last(log: list[Event]) -> None:
    with pytest.raises(RolloutLogTruncatedError, match="ends at event 0"):
        audit("r1", [], known=head_of(audit("r1", log)))


def test_the_log_of_another_rollout_is_no_log_of_this_one(log: list[Event]) -> None:
    with pytest.raises(RolloutLogBrokenError, match="event 1 "):
        audit("r2", log)


def test_a_log_of_a_newer_version_is_refused(log: list[Event]) -> None:
    first = log[0]
    facts = {**first.facts, "version": 99}
    newer = follow(sequence=1, previous="0" * 64, at_s=first.at_s, kind=first.kind, facts=facts)
    with pytest.raises(RolloutLogBrokenError, match="version"):
        audit("r1", [newer])


def test_a_log_of_version_1_still_reads(log: list[Event]) -> None:
    """Written before selectors, caps and comparisons."""
    first = log[0]
    new = {"selector", "bundle_bytes", "bytes_per_s", "margins", "on_halt"}
    facts = {"version": 1, "plan": {name: value for name, value in first.facts["plan"].items() if name not in new}}
    old = [follow(sequence=1, previous="0" * 64, at_s=first.at_s, kind=first.kind, facts=facts)]
    for event in log[1:]:
        old.append(follow(sequence=event.sequence, previous=old[-1].hash, at_s=event.at_s, kind=event.kind, facts=event.facts))
    assert audit("r1", old).state == "completed"
