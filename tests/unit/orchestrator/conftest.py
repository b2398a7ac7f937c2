"""Orchestrators on real ports for the tests of its services."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.orchestrators import RunningOrchestrator
from tests.kit.postgres import Postgres, postgres
from tests.kit.teacher_ends import FakeTeachers


@pytest.fixture(name="orchestrator")
def _orchestrator(tmp_path: Path) -> Iterator[RunningOrchestrator]:
    with RunningOrchestrator(tmp_path) as running:
        yield running


@pytest.fixture(name="shared", scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrchestrator]:
    """One orchestrator for all tests that only are refused; its clock and its state are nobody's to change."""
    with RunningOrchestrator(tmp_path_factory.mktemp("shared"), open_teacher=FakeTeachers()) as running:
        yield running


@pytest.fixture(name="postgres", scope="session")
def _postgres() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(name="store_url", params=["sqlite", "postgresql"])
def _store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that the orchestrator runs on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()
