"""A few of the faults of `tests.fault.orchestrator`, which runs many."""

from pathlib import Path

import pytest

from tests.fault.orchestrator import kills, two_leaders


def test_killed_in_the_middle_of_a_rollout_it_loses_no_report_and_offers_nothing_twice(tmp_path: Path) -> None:
    assert kills(tmp_path, count=3, seed=3, say=print).total() >= 3


@pytest.mark.timeout(240)
def test_a_leader_that_was_frozen_beyond_its_lease_is_refused_when_it_wakes(tmp_path: Path) -> None:
    assert "term 2" in two_leaders(tmp_path, seed=1, say=print)
