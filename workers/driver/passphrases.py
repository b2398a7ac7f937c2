"""Under which passphrase a new key is sealed: that of its owner's keys, proved on them before anything is written.

A typing error would seal a key that nobody opens again, or leave an owner with keys of two passphrases, and a run can be given one. So what
the environment or a file says must open a sealed key that is here. A passphrase that is meant to be new is said to be, replaces all sealed
keys of its owner at once, and is typed twice where it is typed.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from securesystemslib.signer import Signer

from pipeline.errors import ConfigError
from pipeline.releases.keys import OFFLINE, KeyLockedError, Unlock, keyid_at, load_key, passphrase_variable
from workers.driver.folder import RunFolder

Ask = Callable[[Path], str]
AskTwice = Callable[[str], str]
"""Owner -> a passphrase that was typed twice."""


class Passphrases:
    """Of one change of keys. `ask` and `ask_twice` are None where nobody sits at a terminal; nothing is asked for twice."""

    def __init__(self, unlock: Unlock, *, ask: Ask | None = None, ask_twice: AskTwice | None = None, anew: bool = False) -> None:
        """`anew`: the new keys get a passphrase that the old ones do not have."""
        self.unlock = unlock
        self._ask, self._ask_twice, self._anew = ask, ask_twice, anew
        self._typed: dict[str, list[bytes]] = {}

    def signer(self, path: Path, owner: str) -> Signer:
        """The key at `path`; asks where neither the environment nor what was typed opens it. Raises KeyLockedError and its like."""
        try:
            return load_key(path, self.unlock)
        except KeyLockedError:
            for typed in self._typed.get(owner, ()):
                if _opens(path, owner, typed):
                    return load_key(path, _unlock(owner, typed))
            if self._ask is None:
                raise
        typed = self._ask(path).encode()
        signer = load_key(path, _unlock(owner, typed))
        self._typed.setdefault(owner, []).append(typed)
        return signer

    def of(self, owner: str, folder: RunFolder, *, brought: Sequence[Path], replaced: Collection[str]) -> bytes | None:
        """What seals the owner's new keys, None for keys without a passphrase. `replaced` are names of keys that go.

        Raises KeyLockedError where what was given opens none of the owner's keys, ConfigError where a new one would leave two.
        """
        sealed = _sealed(folder, owner, brought)
        stays = sealed if owner == OFFLINE else [path for path in sealed if path.stem not in replaced]
        if self._anew:
            return self._new(owner, stays)
        proved = stays or sealed
        if not proved:
            return self.unlock.passphrase(owner)
        given = self.unlock.passphrase(owner)
        if given is None:
            self.signer(proved[0], owner)
            given = self._typed[owner][0]
        shut = [path for path in proved if not _opens(path, owner, given)]
        if len(shut) == len(proved) or (shut and owner != OFFLINE):  # offline keys lie in several hands
            raise KeyLockedError(str(shut[0]), passphrase_variable(owner), True)
        return given

    def _new(self, owner: str, stays: Sequence[Path]) -> bytes:
        given = self.unlock.passphrase(owner)
        if stays:
            found = f"{', '.join(path.name for path in stays)} would stay under the old one"
            raise ConfigError(f"a new passphrase of the {owner} keys", found, "all of them replaced by one command", "name their roles")
        if given is not None:
            return given
        if self._ask_twice is None:
            raise ConfigError(f"a new passphrase of the {owner} keys", "none", f"one in {passphrase_variable(owner)}, or a terminal")
        return self._ask_twice(owner).encode()


def _sealed(folder: RunFolder, owner: str, brought: Sequence[Path]) -> list[Path]:
    """The owner's keys under a passphrase that are here, or were brought."""
    here = sorted((folder.keys / owner).glob("*.pem"))
    paths = [*brought, *here] if owner == OFFLINE else here
    return [path for path in paths if path.exists() and keyid_at(path)[1] in ("sealed", "under a passphrase")]


def _opens(path: Path, owner: str, passphrase: bytes) -> bool:
    try:
        load_key(path, _unlock(owner, passphrase))
    except KeyLockedError:
        return False
    return True


def _unlock(owner: str, passphrase: bytes) -> Unlock:
    return Unlock(environment={passphrase_variable(owner): passphrase.decode()})
