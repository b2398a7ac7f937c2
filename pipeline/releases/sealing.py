"""A private key under a passphrase: scrypt, then AES-256-GCM, in a text file that says its version and which key it holds.

Passwords of PEM files are stretched 2,048 times only by the library that writes them; a passphrase that a person chose needs
more. What is written here is read here alone; files that openssl encrypted are read by `keys`.
"""

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pipeline.errors import ReleaseError

BEGIN, END = "-----BEGIN KDPIPE SEALED KEY-----", "-----END KDPIPE SEALED KEY-----"
SEAL_VERSION = 1
_SALT_BYTES, _NONCE_BYTES = 16, 12
_COST, _BLOCK, _LANES = 2**16, 8, 1
"""Of scrypt, for version 1: 64 MiB and about a fifth of a second a try."""


class SealBrokenError(ReleaseError):
    """A sealed key's file is of another version, or was changed."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"sealed key: {self.found}; expected one of version {SEAL_VERSION}, whole; restore the file from a copy"


class PassphraseWrongError(ReleaseError):
    """The passphrase does not open the seal (or the file was changed: the two look the same)."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "sealed key: the passphrase does not open it; expected the one it was sealed with; try again"


def is_sealed(data: bytes) -> bool:
    return data.startswith(BEGIN.encode())


def sealed_keyid(data: bytes) -> str:
    """Which key a sealed file holds, by its own word. Raises SealBrokenError."""
    return _parts(data)[1]


def seal(pem: bytes, passphrase: bytes, *, keyid: str) -> bytes:
    """The file's content. Salt and nonce are the machine's randomness."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    head = f"Version: {SEAL_VERSION}\nKey-Id: {keyid}"
    body = base64.b64encode(salt + nonce + AESGCM(_stretched(passphrase, salt)).encrypt(nonce, pem, head.encode())).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join([BEGIN, head, "", *lines, END, ""]).encode()


def unseal(data: bytes, passphrase: bytes) -> bytes:
    """The PEM inside. Raises PassphraseWrongError, SealBrokenError."""
    head, _, body = _parts(data)
    salt, nonce, rest = body[:_SALT_BYTES], body[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES], body[_SALT_BYTES + _NONCE_BYTES :]
    try:
        return AESGCM(_stretched(passphrase, salt)).decrypt(nonce, rest, head.encode())
    except InvalidTag as error:
        raise PassphraseWrongError from error


def _stretched(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=_BLOCK, p=_LANES).derive(passphrase)


def _parts(data: bytes) -> tuple[str, str, bytes]:
    """Head, key id and the bytes after it."""
    try:
        head, blank, rest = data.decode("ascii").removeprefix(f"{BEGIN}\n").partition("\n\n")
        version, key = (line.partition(": ")[2] for line in head.split("\n"))
        body = base64.b64decode(rest.partition(END)[0].replace("\n", ""), validate=True)
    except (ValueError, binascii.Error) as error:
        raise SealBrokenError(f"{error}"[:120]) from error
    if version != str(SEAL_VERSION) or not blank or len(body) <= _SALT_BYTES + _NONCE_BYTES:
        raise SealBrokenError(f"version {version[:20]!r}, {len(body)} bytes")
    return head, key, body
