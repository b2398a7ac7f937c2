"""A run that signs nothing for months still has releases that a new device may install."""

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import FleetError
from pipeline.releases.online import OnlineRepository
from pipeline.releases.repository import RELEASES_VALID
from tests.kit.bundles import NOW, Trust, text_bundle
from workers.driver.renewing import LOOK_EVERY, Renewal


class Fleet:
    """An orchestrator's repository at a time that the test sets; unreachable on request."""

    def __init__(self, trust: Trust) -> None:
        self.online: OnlineRepository = trust.online()
        self.now, self.calls, self.reachable = NOW, 0, True

    def publish(self, metadata: bytes) -> None:
        self.calls += 1
        if not self.reachable:
            raise FleetError("away")
        self.online.publish(metadata, None, now=self.now)

    def wait(self, time: timedelta) -> None:
        self.now += time

    def renewal(self, trust: Trust) -> Renewal:
        return Renewal(trust.keys, self.publish, clock=lambda: self.now)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust.make(tmp_path)


@pytest.fixture
def fleet(trust: Trust, tmp_path: Path) -> Fleet:
    trust.publish(text_bundle(tmp_path / "bundles"))
    return Fleet(trust)


def left(trust: Trust, fleet: Fleet) -> timedelta:
    return trust.signer().expires - fleet.now


def test_a_run_that_waits_for_two_years_never_lets_its_releases_expire(trust: Trust, fleet: Fleet) -> None:
    renewal = fleet.renewal(trust)
    for _ in range(730):
        renewal.look()
        assert left(trust, fleet) >= RELEASES_VALID / 2
        fleet.wait(timedelta(days=1))
    assert fleet.calls < 12


def test_within_an_hour_nothing_is_looked_at_again(trust: Trust, fleet: Fleet) -> None:
    renewal = fleet.renewal(trust)
    renewal.look()
    (trust.keys / "release" / "releases.json").unlink()
    fleet.wait(LOOK_EVERY / 2)
    renewal.look()


def test_what_could_not_be_published_is_published_at_the_next_look_and_signed_once(trust: Trust, fleet: Fleet) -> None:
    renewal = fleet.renewal(trust)
    renewal.look()
    fleet.wait(RELEASES_VALID * 0.6)
    fleet.reachable = False
    with pytest.raises(FleetError):
        renewal.look()
    signed = (trust.keys / "release" / "releases.json").read_bytes()
    fleet.wait(LOOK_EVERY)
    fleet.reachable = True
    renewal.look()
    assert (trust.keys / "release" / "releases.json").read_bytes() == signed
    assert left(trust, fleet) > RELEASES_VALID / 2
    assert signed in [path.read_bytes() for path in (trust.repository / "metadata").glob("*.releases.json")]


def test_what_a_killed_driver_signed_and_did_not_publish_is_published_by_the_next(trust: Trust, fleet: Fleet) -> None:
    signed = trust.signer().renew(now=fleet.now)
    fleet.renewal(trust).look()
    assert signed in [path.read_bytes() for path in (trust.repository / "metadata").glob("*.releases.json")]


def test_without_a_release_nothing_is_signed(trust: Trust) -> None:
    fleet = Fleet(trust)
    fleet.wait(RELEASES_VALID * 2)
    fleet.renewal(trust).look()
    assert fleet.calls == 0
