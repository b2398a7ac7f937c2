"""Private signing keys on disk: Ed25519, one file per key, readable by the owner only.

Three folders, three owners: `offline` (root and targets; to be moved away), `release` (the driver), `online` (the orchestrator:
snapshot, timestamp, assignment). Key generation is the one place here that needs the machine's randomness.
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from pipeline.errors import ReleaseError
from pipeline.files import create_exclusive, make_private_folder, read_bounded

OFFLINE, RELEASE, ONLINE = "offline", "release", "online"
ROOT_KEYS = ("root-1", "root-2", "root-3")
MAX_KEY_BYTES = 16_384


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


def ensure_key(path: Path) -> CryptoSigner:
    """The key at `path`, made if there is none. Of two callers at once both get the same key."""
    if not path.exists():
        make_private_folder(path.parent)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        create_exclusive(path, pem, mode=0o600)
    return load_key(path)


def load_key(path: Path) -> CryptoSigner:
    """The signer of the key at `path`. Raises KeyMissingError, KeyUnsafeError."""
    try:
        mode = path.stat().st_mode
        pem = read_bounded(path, MAX_KEY_BYTES)
    except FileNotFoundError as error:
        raise KeyMissingError(str(path)) from error
    if os.name == "posix" and mode & 0o077:
        raise KeyUnsafeError(str(path), f"mode {mode & 0o777:04o}")
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise KeyUnsafeError(str(path), "not a PEM key") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyUnsafeError(str(path), f"a {type(private).__name__}")
    return CryptoSigner(private)
