"""One run of digits for all tests that need a finished one.

Tests that start Ray share one process of pytest's, and with it what is made once a session.
"""

import pytest

from tests.kit.digits_run import FinishedRun, StoppedRun, finish, stop_as_it_learns


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> StoppedRun:
    return stop_as_it_learns(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def finished(stopped: StoppedRun) -> FinishedRun:
    """Nobody's to change: a test that would takes a copy."""
    return finish(stopped.home)
