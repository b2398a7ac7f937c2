"""Private signing keys: where each one is, and what opens it.

Three folders, three owners, three passphrases: `offline` (root and targets; to be moved away), `release` (the driver), `online` (the
orchestrator: snapshot, timestamp, assignment). A key is a file `NAME.pem`, mode 0600, sealed where its owner has a passphrase; or a file
`NAME.uri` that says which key it is and where it lies: `env:VARIABLE`, or a URI that securesystemslib's signers take (a KMS, a hardware
key). The environment is an argument (`Unlock`). Key generation is the one place here that needs the machine's randomness.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from pipeline.errors import ReleaseError
from pipeline.files import create_exclusive, make_private_folder, read_bounded
from pipeline.releases.sealing import PassphraseWrongError, is_sealed, seal, sealed_keyid, unseal

OFFLINE, RELEASE, ONLINE = "offline", "release", "online"
OWNERS = (OFFLINE, RELEASE, ONLINE)
ROOT_KEYS = ("root-1", "root-2", "root-3")
MAX_KEY_BYTES = 16_384
REFERENCE_VERSION = 1
ENVIRONMENT_SCHEME = "env:"


class KeyMissingError(ReleaseError):
    """A private key is not where its owner looks for it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: no such key; expected an Ed25519 private key; restore it from where the keys were moved to"


class KeyUnsafeError(ReleaseError):
    """A private key can be read by others, or is no Ed25519 key."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected an Ed25519 private key with mode 0600; `chmod 600 {self.path}`, or replace the key"


class KeyLockedError(ReleaseError):
    """A private key is under a passphrase that was not given, or is another."""

    def __init__(self, path: str, variable: str, given: bool) -> None:
        super().__init__(path, variable, given)
        self.path, self.variable, self.given = path, variable, given

    def __str__(self) -> str:
        found = "the passphrase does not open it" if self.given else "under a passphrase, and none was given"
        return f"{self.path}: {found}; expected the key's passphrase in {self.variable}; set it (or {self.variable}_FILE) and try again"


class KeyUnusableError(ReleaseError):
    """A key that lies elsewhere cannot be used: its signer is unknown, not installed, or refused."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(where, found)
        self.where, self.found = where, found

    def __str__(self) -> str:
        return (
            f"key {self.where}: {self.found}; expected a URI of securesystemslib that works from here, or env:VARIABLE; "
            "docs/releases.md lists them"
        )


class KeyNotListedError(ReleaseError):
    """A private key is not, or no longer, one that the repository lists for its role: nothing that it signs counts."""

    def __init__(self, path: str, role: str, keyid: str, listed: tuple[str, ...]) -> None:
        super().__init__(path, role, keyid, listed)
        self.path, self.role, self.keyid, self.listed = path, role, keyid, listed

    def __str__(self) -> str:
        listed = ", ".join(keyid[:8] for keyid in self.listed)
        return (
            f"{self.path}: key {self.keyid[:8]}, which the repository does not list for {self.role}; expected {listed}; nothing was "
            f"signed; start again with the folder of the keys in use (--keys), or `kdpipe keys rotate DIR {self.role}` makes a new one"
        )


def check_listed(signer: Signer, listed: Iterable[str], *, role: str, path: Path) -> None:
    """That the repository lists this key for the role. Raises KeyNotListedError."""
    found, keyids = signer.public_key.keyid, tuple(sorted(listed))
    if found not in keyids:
        raise KeyNotListedError(str(path), role, found, keyids)


@dataclass(frozen=True, kw_only=True)
class Unlock:
    """What opens private keys: an environment, with passphrases by owner and the text of keys that lie there."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def passphrase(self, owner: str) -> bytes | None:
        """The owner's passphrase: KDPIPE_OWNER_PASSPHRASE, or what is in the file that KDPIPE_OWNER_PASSPHRASE_FILE names."""
        variable = passphrase_variable(owner)
        if text := self.environment.get(variable):
            return text.encode()
        if named := self.environment.get(f"{variable}_FILE"):
            return read_bounded(Path(named), MAX_KEY_BYTES).rstrip(b"\r\n") or None
        return None


LOCKED = Unlock()
"""Opens what is not locked."""


def passphrase_variable(owner: str) -> str:
    return f"KDPIPE_{owner.upper()}_PASSPHRASE"


def owner_of(path: Path) -> str:
    """Whose key this is, by its folder; a key that was moved away is an offline one."""
    return path.parent.name if path.parent.name in OWNERS else OFFLINE


def ensure_key(path: Path, unlock: Unlock = LOCKED) -> Signer:
    """The key at `path`, made if there is none there and none beside it (`NAME.uri`). Of two callers at once both get the same key."""
    if not path.exists() and not path.with_suffix(".uri").exists():
        make_private_folder(path.parent)
        create_exclusive(path, sealed_pem(CryptoSigner.generate_ed25519(), unlock.passphrase(owner_of(path))), mode=0o600)
    return load_key(path, unlock)


def sealed_pem(key: CryptoSigner, passphrase: bytes | None) -> bytes:
    """The content of a key's file; sealed where there is a passphrase."""
    return key.private_bytes if passphrase is None else seal(key.private_bytes, passphrase, keyid=key.public_key.keyid)


def load_key(path: Path, unlock: Unlock = LOCKED) -> Signer:
    """The signer of the key at `path`, or of the one that `NAME.uri` beside it names.

    Raises KeyMissingError, KeyUnsafeError, KeyLockedError, KeyUnusableError.
    """
    reference = path.with_suffix(".uri")
    if not path.exists() and reference.exists():
        return load_reference(read_bounded(reference, MAX_KEY_BYTES), unlock, where=str(reference), owner=owner_of(path))
    try:
        mode = path.stat().st_mode
        data = read_bounded(path, MAX_KEY_BYTES)
    except FileNotFoundError as error:
        raise KeyMissingError(str(path)) from error
    if os.name == "posix" and mode & 0o077:
        raise KeyUnsafeError(str(path), f"mode {mode & 0o777:04o}")
    return _signer(data, str(path), owner_of(path), unlock)


def reference_to(uri: str, public: Key | None, unlock: Unlock, *, owner: str) -> bytes:
    """The content of a `NAME.uri` file. `public` may be left out for env:VARIABLE. Raises KeyUnusableError."""
    if public is None:
        if not uri.startswith(ENVIRONMENT_SCHEME):
            raise KeyUnusableError(uri, "no public key was given")
        public = _from_environment(uri, unlock, owner).public_key
    tree = {"version": REFERENCE_VERSION, "uri": uri, "keyid": public.keyid, "key": public.to_dict()}
    return json.dumps(tree, indent=1).encode() + b"\n"


def load_reference(data: bytes, unlock: Unlock, *, where: str, owner: str) -> Signer:
    """The signer that a `NAME.uri` file names. Raises KeyUnusableError, and for env:VARIABLE what `load_key` raises."""
    uri, public = _read_reference(data, where)
    if uri.startswith(ENVIRONMENT_SCHEME):
        signer = _from_environment(uri, unlock, owner)
        if signer.public_key.keyid != public.keyid:
            raise KeyUnusableError(uri, f"another key, {signer.public_key.keyid[:8]}, not {public.keyid[:8]}")
        return signer
    try:
        return Signer.from_priv_key_uri(uri, public, lambda what: _asked_for(what, owner, unlock))
    except Exception as error:  # each signer of securesystemslib raises what its own library raises
        raise KeyUnusableError(uri, f"{type(error).__name__}: {error}"[:200]) from error


def public_key(pem: bytes, where: str) -> SSlibKey:
    """A public key from its PEM. Raises KeyUnusableError."""
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(pem))
    except ValueError as error:
        raise KeyUnusableError(where, f"no public key in PEM ({error})"[:200]) from error


def keyid_at(path: Path) -> tuple[str, str]:
    """Id of the key at `path`, or that `NAME.uri` beside it names, and how it is kept; nothing is unlocked. Raises KeyMissingError."""
    reference = path.with_suffix(".uri")
    if not path.exists() and reference.exists():
        uri, public = _read_reference(read_bounded(reference, MAX_KEY_BYTES), str(reference))
        return public.keyid, uri
    try:
        data = read_bounded(path, MAX_KEY_BYTES)
    except FileNotFoundError as error:
        raise KeyMissingError(str(path)) from error
    if is_sealed(data):
        return sealed_keyid(data), "sealed"
    try:
        return load_key(path).public_key.keyid, "not sealed"
    except KeyLockedError:
        return "", "under a passphrase"


def _read_reference(data: bytes, where: str) -> tuple[str, Key]:
    try:
        tree: dict[str, Any] = json.loads(data)
        if tree["version"] != REFERENCE_VERSION:
            raise KeyUnusableError(where, f"version {tree['version']!r:.20}")
        uri = tree["uri"]
        if not isinstance(uri, str):
            raise KeyUnusableError(where, "a URI that is no text")
        return uri, Key.from_dict(tree["keyid"], dict(tree["key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise KeyUnusableError(where, f"{type(error).__name__} {error}"[:120]) from error


def _from_environment(uri: str, unlock: Unlock, owner: str) -> Signer:
    variable = uri.removeprefix(ENVIRONMENT_SCHEME)
    text = unlock.environment.get(variable)
    if not text:
        raise KeyUnusableError(uri, "no such variable")
    return _signer(text.encode(), uri, owner, unlock)


def _asked_for(what: str, owner: str, unlock: Unlock) -> str:
    passphrase = unlock.passphrase(owner)
    if passphrase is None:
        raise KeyLockedError(what, passphrase_variable(owner), False)
    return passphrase.decode()


def _signer(data: bytes, where: str, owner: str, unlock: Unlock) -> CryptoSigner:
    passphrase = unlock.passphrase(owner) if is_sealed(data) or b"ENCRYPTED" in data else None
    locked = KeyLockedError(where, passphrase_variable(owner), passphrase is not None)
    if is_sealed(data):
        if passphrase is None:
            raise locked
        try:
            data, passphrase = unseal(data, passphrase), None
        except PassphraseWrongError as error:
            raise locked from error
    try:
        private = serialization.load_pem_private_key(data, password=passphrase)
    except (ValueError, TypeError) as error:
        raise (locked if b"ENCRYPTED" in data else KeyUnsafeError(where, "not a PEM key")) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyUnsafeError(where, f"a {type(private).__name__}")
    return CryptoSigner(private)


def variables_of(keys_dir: Path, owner: str) -> frozenset[str]:
    """Variables of the environment that open an owner's keys, or are one."""
    found = {passphrase_variable(owner), f"{passphrase_variable(owner)}_FILE"}
    for reference in (keys_dir / owner).glob("*.uri"):
        uri, _ = _read_reference(read_bounded(reference, MAX_KEY_BYTES), str(reference))
        if uri.startswith(ENVIRONMENT_SCHEME):
            found.add(uri.removeprefix(ENVIRONMENT_SCHEME))
    return frozenset(found)
