"""Under which passphrase new keys are sealed: never under one that was mistyped, never two for one owner."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.releases import sealing
from pipeline.releases.journal import JOURNAL
from pipeline.releases.keys import ONLINE, OWNERS, RELEASE, KeyLockedError, Unlock, load_key, passphrase_variable
from pipeline.releases.repository import create_repository
from pipeline.releases.rotation import ROLES
from tests.kit.bundles import NOW
from workers.driver import run
from workers.driver.folder import RunFolder
from workers.driver.passphrases import Passphrases
from workers.driver.rekeying import OWNER, rekey
from workers.driver.request import RunRequest
from workers.driver.unlocking import check_keys


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_COST", 16)
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Sealed:
    """A run's folder whose keys are all here, under the passphrase `right`."""

    RIGHT: Mapping[str, str] = {passphrase_variable(owner): "right" for owner in OWNERS}

    def __init__(self, root: Path) -> None:
        self.folder = RunFolder(root / "sealed")
        create_repository(self.folder.keys, self.folder.releases, now=NOW, unlock=Unlock(environment=self.RIGHT))

    def rotate(self, *roles: str, ask: Any = None, ask_twice: Any = None, anew: Any = False, **given: str) -> None:
        unlock = Unlock(environment={**self.RIGHT, **{passphrase_variable(owner): text for owner, text in given.items()}})
        asked = Passphrases(unlock, ask=ask, ask_twice=ask_twice, anew=anew)
        rekey(self.folder, roles, brought=(), passphrases=asked, now=NOW)

    def opened_by(self, passphrase: str, owner: str) -> set[str]:
        """Names of the owner's keys that a passphrase opens."""
        found = set()
        for path in (self.folder.keys / owner).glob("*.pem"):
            with contextlib.suppress(KeyLockedError):
                load_key(path, Unlock(environment={passphrase_variable(owner): passphrase}))
                found.add(path.stem)
        return found


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return Sealed(tmp_path)


@pytest.mark.parametrize("role", ROLES)
def test_a_mistyped_passphrase_seals_no_key(sealed: Sealed, role: str) -> None:
    owner, before = OWNER[role], {path: path.read_bytes() for path in sealed.folder.keys.rglob("*.pem")}
    with pytest.raises(KeyLockedError, match="does not open it"):
        sealed.rotate(role, **{owner: "wrong"})
    with pytest.raises(KeyLockedError, match="does not open it"):
        sealed.rotate(role, ask=lambda _: "wrong", **{owner: ""})
    assert {path: path.read_bytes() for path in sealed.folder.keys.rglob("*.pem")} == before


def test_what_is_typed_for_the_old_keys_seals_the_new_one_too(sealed: Sealed) -> None:
    sealed.rotate("release", "targets", ask=lambda _: "right", release="", offline="")
    assert sealed.opened_by("right", "release") == {"release"}
    assert len(sealed.opened_by("right", "offline")) == 4, "three of root, one of targets"


def test_a_forgotten_passphrase_is_replaced_with_all_keys_of_its_owner(sealed: Sealed) -> None:
    sealed.rotate("release", anew=True, release="new")
    assert sealed.opened_by("new", "release") == {"release"}
    with pytest.raises(ConfigError, match=r"assignment\.pem would stay under the old one"):
        sealed.rotate("snapshot", "timestamp", anew=True, online="new")
    sealed.rotate("snapshot", "timestamp", "assignment", anew=True, online="", ask_twice=lambda owner: f"typed for {owner}")
    assert sealed.opened_by("typed for online", "online") == {"snapshot", "timestamp", "assignment"}
    with pytest.raises(ConfigError, match="or a terminal"):
        sealed.rotate("release", anew=True, release="", online="typed for online")


def test_a_run_asks_for_the_passphrases_of_what_will_sign_before_it_begins(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    check_keys(sealed.folder, Unlock(environment=sealed.RIGHT))
    check_keys(RunFolder(sealed.folder.root / "nothing"), Unlock())
    for owner in (RELEASE, ONLINE):
        without = {name: text for name, text in sealed.RIGHT.items() if name != passphrase_variable(owner)}
        with pytest.raises(KeyLockedError, match=f"none was given; expected the key's passphrase in KDPIPE_{owner.upper()}_PASSPHRASE"):
            check_keys(sealed.folder, Unlock(environment=without))
    asked = RunRequest.of("digits", sealed.folder.root, dry_run=True)
    monkeypatch.delenv(passphrase_variable(RELEASE), raising=False)
    monkeypatch.setattr(run, "check_students", lambda _: pytest.fail("the keys come first"))
    with pytest.raises(KeyLockedError, match="KDPIPE_RELEASE_PASSPHRASE"):
        run.drive(asked)


def test_a_change_of_keys_that_a_crash_left_is_for_the_run_to_finish(sealed: Sealed) -> None:
    (sealed.folder.keys / JOURNAL).write_bytes(b"{}")
    check_keys(sealed.folder, Unlock())
