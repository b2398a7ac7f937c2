"""A release that is taken back while it is on its way, or after it arrived."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from pipeline.releases.online import ReleaseYankedError
from pipeline.releases.target import target_path
from pipeline.rollout.evidence import Progress
from pipeline.rollout.rollout import RolloutState
from pipeline.rollout.steering import Action
from tests.unit.orchestrator.test_engine import World, order


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, CryptoSigner.generate_ed25519())
    yield world
    world.close()


def test_a_rollout_whose_release_is_yanked_halts_at_once_says_so_and_calls_back_what_was_offered(world: World) -> None:
    world.add("d-1", "d-2")
    world.roll(1)
    world.order(order(2))
    world.act("r2")
    world.says("d-1", Progress.CONFIRMED)
    world.shelf.yank(2)
    world.tick()
    assert world.state("r2") is RolloutState.HALTED
    assert world.roster.rollouts["r2"].reason == "wave 1: the release was yanked (answers in French)"
    assert world.assignment("d-2").target == target_path("small", 1)
    assert world.roster.devices["d-1"].target == target_path("small", 2), "who runs it goes on until an operator says otherwise"
    with pytest.raises(ReleaseYankedError, match="answers in French"):
        world.act("r2", Action.RESUME)
    world.act("r2", Action.ABORT_REVERT)
    assert world.assignment("d-1").target == target_path("small", 1)


def test_a_yanked_release_that_waits_for_its_first_device_is_never_offered(world: World) -> None:
    world.order(order(1))
    world.act("r1")
    world.shelf.yank(1)
    world.add("d-1")
    world.tick()
    assert world.state("r1") is RolloutState.ABORTED
    assert world.roster.devices["d-1"].target == ""
    world.order(order(2))
    world.shelf.yank(2)
    with pytest.raises(ReleaseYankedError):
        world.act("r2")


def test_a_newcomer_gets_the_newest_release_that_was_not_yanked(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    world.now += 1
    world.roll(2)
    world.shelf.yank(2)
    world.add("d-2")
    world.tick()
    assert world.assignment("d-2").target == target_path("small", 1)
    world.shelf.yank(1)
    world.add("d-3")
    world.tick()
    assert world.roster.devices["d-3"].target == ""
